"""Compress a module of your own: a function that returns it, and `encode`, which turns samples into its inputs.

trimodal compress examples.your_own_module:build --recipe int4 --data data.jsonl -o out
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import trimodal
from trimodal.networks.tiny import write_miniature_data


class WordCounter(nn.Module):
    """Scores four topics from the words of a text."""

    modalities = ("text",)

    def __init__(self) -> None:
        super().__init__()
        self.text_words = nn.Embedding(64, 32)
        self.text_mix = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 4))

    def encode(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """Word numbers (batch, 8) of the samples' texts."""
        words = [(sample.text.split() + [""] * 8)[:8] for sample in samples]
        return {"words": torch.tensor([[sum(map(ord, word)) % 64 for word in row] for row in words])}

    def forward(self, words: Tensor) -> Tensor:
        """words (batch, 8) -> scores (batch, 4)."""
        scores: Tensor = self.text_mix(self.text_words(words).mean(1))
        return scores


def build() -> nn.Module:
    """The module with its weights; here random, seeded."""
    torch.manual_seed(0)
    return WordCounter()


def main(folder: Path) -> None:
    """Compress the module into `folder` and load it again."""
    data = write_miniature_data(folder / "data", 40, ("text",))
    recipe = {
        "calibration": {"samples": 16},
        "steps": [
            {"quantize.rtn": {"where": "*embedding", "bits": 8}},
            {"quantize.gptq": {"where": "*", "bits": 4, "group": 16}},
        ],
    }
    result = trimodal.compress(build, recipe, data, folder / "out")
    loaded = trimodal.load(folder / "out", factory=build)
    print(result.verdict.metrics[0], type(loaded).__name__)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))

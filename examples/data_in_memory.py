"""Compress a Whisper model with sounds that are in memory: a torch Dataset, or any list of rows. Here a miniature and tones."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

import trimodal
from trimodal.networks.tiny import write_miniature

RATE = 16_000


class Tones(Dataset[dict[str, Any]]):
    """Forty tones with what is to be heard in them, made when they are asked for."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, Any]:
        time = np.arange(RATE // 2) / RATE
        wave = np.sin(2 * np.pi * (200 + 20 * index) * time).astype(np.float32) / 2
        split = "test" if index % 5 == 0 else "train"
        return {"audio": {"array": wave, "sampling_rate": RATE}, "target": f"tone {index}", "split": split}


def main(folder: Path) -> None:
    """Write a miniature into `folder`, compress it with the tones, and measure it with them again."""
    model = write_miniature("whisper", folder / "whisper")
    recipe = {"steps": [{"quantize.gptq": {"bits": 4, "group": 16}}]}
    result = trimodal.compress(model, recipe, Tones(), folder / "out")
    print(result.plan.calibration.samples, "tones calibrated")
    verdict = trimodal.verify(folder / "out", model, Tones())
    for metric in verdict.metrics:
        print(f"{metric.name}: {metric.before:.3f} → {metric.after:.3f} on {metric.samples} tones")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))

"""Train a U-Net of your own to say which shape every pixel shows, then cut some of its channels, round the rest to 8 bits, and compare.

    python examples/segment_scenes.py [FOLDER [STEPS]]

The module is plain PyTorch: convolutions, transposed convolutions that make maps larger, skips that are joined by concatenation. `encode`
says how images become its input, `outputs` that it scores pixels, `example` lets trimodal see which channels belong together.
"""

import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model
from torch import Tensor, nn

import trimodal
from trimodal.models.model import Output

sys.path.insert(0, str(Path(__file__).parent / "training"))
from draw_scenes import MASK_CLASSES, SIDE, write_scenes

WIDTHS = (12, 24, 48)
RECIPE: dict[str, Any] = {
    "calibration": {"samples": 64},
    "steps": [
        {"prune.channels": {"where": "*", "sparsity": 0.25}},
        {"distill": {"steps": 40, "batch": 16}},
        {"quantize.rtn": {"where": "*", "bits": 8}},
    ],
}


def make_stage(channels: int, width: int) -> nn.Sequential:
    """Two convolutions with batch norms: (batch, channels, height, width) to (batch, width, …)."""
    layers: list[nn.Module] = []
    for before in (channels, width):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Down and up again, with skips between (Ronneberger et al. 2015, arXiv 1505.04597)."""

    modalities = ("image",)
    outputs = (Output("output", "image", "tokens", rows="pixel"),)

    def __init__(self, classes: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList([make_stage(3, widths[0]), *(make_stage(a, b) for a, b in pairs)])
        self.enlarge = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(pairs)])
        self.up = nn.ModuleList([make_stage(2 * a, a) for a, _ in reversed(pairs)])
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Conv2d(widths[0], classes, 1)

    def encode(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """Images (batch, 3, height, width) in [-1, 1] of the samples."""
        pixels = np.stack([np.asarray(sample.image) for sample in samples])
        return {"image": torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1}

    def example(self) -> dict[str, Tensor]:
        """One black image."""
        return {"image": torch.zeros(1, 3, SIDE, SIDE)}

    def forward(self, image: Tensor) -> Tensor:
        """image (batch, 3, height, width) -> scores (batch, classes, height, width); both sides are multiples of 4."""
        seen = [self.down[0](image)]
        for stage in self.down[1:]:
            seen.append(stage(self.pool(seen[-1])))
        x = seen.pop()
        for enlarge, stage in zip(self.enlarge, self.up, strict=True):
            x = stage(torch.cat([seen.pop(), enlarge(x)], dim=1))
        scores: Tensor = self.classifier(x)
        return scores


def build() -> nn.Module:
    """The module, with random weights until it is trained."""
    torch.manual_seed(0)
    return UNet(len(MASK_CLASSES))


def main(folder: Path, steps: int = 300) -> None:
    """Draw, train for so many steps, compress, and say what it cost."""
    data = write_scenes(folder / "scenes", 4 * steps, 60) / "masks.jsonl"
    config = {"model": build, "task": "segment", "steps": steps, "batch": 16, "learning_rate": 5e-3, "evaluate_every": steps}
    trained = trimodal.train(config, data=data, out=folder / "unet", tell=print)
    print(f"trained in {trained.seconds:.0f} s: Dice {trained.metrics['image_dice']:.1f} %, IoU {trained.metrics['image_iou']:.1f} %")
    trained_module = build()
    load_model(trained_module, folder / "unet" / "model.safetensors")
    result = trimodal.compress(lambda: trained_module, RECIPE, data, folder / "out")
    size = result.verdict.size
    print(f"{size.before_bytes:,} bytes before, {size.after_bytes:,} after")
    print(*(f"{metric.name}: {metric.before:.1f} → {metric.after:.1f} %" for metric in result.verdict.metrics), sep="\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), *(int(steps) for steps in sys.argv[2:3]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))

"""Channels that go through transposed convolutions and joined skips: what is cut is what was silent, and the outputs stay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trimodal
from trimodal.loading.load import build_model

SILENT: Mapping[str, list[int]] = {"first": [0, 1, 2, 3], "down": [1, 3, 5, 7], "up": [4, 5, 6, 7]}


class Small(nn.Module):
    """A U-Net of one step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 2, stride=2)
        self.up, self.last = nn.ConvTranspose2d(8, 8, 2, stride=2), nn.Conv2d(16, 2, 1)

    def example(self) -> dict[str, Tensor]:
        return {"image": torch.zeros(1, 3, 8, 8)}

    def forward(self, image: Tensor) -> Tensor:
        skip = self.first(image).relu()
        found: Tensor = self.last(torch.cat([skip, self.up(self.down(skip).relu()).relu()], dim=1))
        return found


def make_half_silent() -> nn.Module:
    torch.manual_seed(0)
    net = Small()
    with torch.no_grad():
        for name, silent in SILENT.items():
            layer: Any = net.get_submodule(name)
            (layer.weight.transpose(0, 1) if name == "up" else layer.weight)[silent] = 0
            layer.bias[silent] = 0
    return net


def make_twins() -> nn.Module:
    """What the transposed convolution reads, every channel twice."""
    torch.manual_seed(0)
    net = Small()
    with torch.no_grad():
        for values in (net.down.weight, net.down.bias):
            values[4:] = values[:4]
    return net


@pytest.mark.parametrize(
    ("make", "options", "shapes"),
    [
        (make_half_silent, {"where": "*", "score": "magnitude"}, {"first": (4, 3), "down": (4, 4), "up": (4, 4), "last": (2, 8)}),
        (make_twins, {"where": "model.down.channels", "score": "hessian"}, {"first": (8, 3), "down": (4, 8), "up": (8, 4), "last": (2, 16)}),
    ],
)
def test_what_nobody_needs_is_cut(make: Any, options: dict[str, str], shapes: dict[str, Any], tmp_path: Path) -> None:
    """Silent channels are the least; of twins the transposed convolution that reads them makes up for the one that goes."""
    images = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    recipe = {"steps": [{"prune.channels": {"sparsity": 0.5, **options}}]}
    trimodal.compress(make, recipe, [(image,) for image in images], tmp_path / "out")
    cut = trimodal.load(tmp_path / "out", factory=make)
    assert {name: tuple(part.weight.shape[:2]) for name, part in cut.named_modules() if hasattr(part, "weight")} == shapes
    with torch.no_grad():
        before, after = make()(images), cut(images)
    assert float((after - before).norm() / before.norm()) < 0.01

"""What the loss says of each weight, or of each unit: moments of its gradient over samples."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Gradient:
    """Of a weight (m, n), over samples with gradients g (m, n): `mean` E[g], `size` E|g| and `square` E[g²], all
    float32 (m, n). With labels drawn from the model's own predictions `square` is the diagonal of the Fisher
    information."""

    rows: int
    columns: int
    samples: int = 0
    mean: Tensor = field(init=False)
    size: Tensor = field(init=False)
    square: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.size, self.square = (torch.zeros(self.rows, self.columns) for _ in range(3))

    def update(self, gradient: Tensor) -> None:
        """Take in one sample's gradient, of the weight's own shape."""
        g = gradient.detach().float().view(self.rows, self.columns)
        self.samples += 1
        for total, value in ((self.mean, g), (self.size, g.abs()), (self.square, g.square())):
            total.lerp_(value.to(total.device), 1 / self.samples)


@dataclass
class MaskGradient:
    """Of the masks m (u,) of one layer's units, over samples with gradients g (u,): `square` E[g gᵀ] (u, u), float64: with
    labels drawn from the model's own predictions the Fisher information of the masks."""

    units: int
    samples: int = 0
    square: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.square = torch.zeros(self.units, self.units, dtype=torch.float64)

    def update(self, gradient: Tensor) -> None:
        """Take in one sample's gradient (u,)."""
        g = gradient.detach().double().cpu()
        self.samples += 1
        self.square.lerp_(torch.outer(g, g), 1 / self.samples)

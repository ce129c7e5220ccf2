"""What the loss says of each weight, or of each unit: moments of its gradient over samples."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trimodal.maths.unseen import find_unseen_inputs


@dataclass
class WeightGradient:
    """Of a weight (m, n), over samples with gradients g (m, n): `mean` E[g], `size` E|g| and `square` E[g²], all float32 (m, n) on
    `device`. With labels drawn from the model's own predictions `square` is the diagonal of the Fisher information. `assumed`
    counts columns that were filled in because they were never seen."""

    rows: int
    columns: int
    samples: int = 0
    device: torch.device | None = None
    assumed: int = field(init=False, default=0)
    mean: Tensor = field(init=False)
    size: Tensor = field(init=False)
    square: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.size, self.square = (
            torch.zeros(self.rows, self.columns, device=self.device) for _ in range(3)
        )

    def update(self, gradient: Tensor) -> None:
        """Take in one sample's gradient, of the weight's own shape."""
        g = gradient.detach().float().view(self.rows, self.columns)
        self.samples += 1
        for total, value in ((self.mean, g), (self.size, g.abs()), (self.square, g.square())):
            total.lerp_(value.to(total.device), 1 / self.samples)

    def fill_unseen(self) -> WeightGradient:
        """The same with the mean over all others where no sample gave a weight a gradient, or none worth the name to
        its column (`maths/unseen.py`); `assumed` says how many those are. Where there is no gradient at all nothing is assumed."""
        never = (self.size == 0) | find_unseen_inputs(self.square.mean(0))
        if not never.any() or never.all():
            return self
        result = copy.copy(self)
        result.mean, result.size, result.square = (
            torch.where(never, value.abs()[~never].mean(), value) for value in (self.mean, self.size, self.square)
        )
        result.assumed = int(never.sum())
        return result


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

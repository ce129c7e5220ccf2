"""Second moment, mean and column norm of a stream of tokens, and their mix over modalities.

Every statistic has `update(x)` with x (tokens, in_features) and plain attributes. They are running means, so that the
scale does not depend on how many tokens were seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

StatisticKind = Literal["moment", "paired", "norm"]
Balance = Literal["modality", "tokens", "gradient"]
_LEAST_SHARE = 0.05


@dataclass
class ColumnNorm:
    """E[x_j²] per input column (n,), float32: what Wanda needs, at n numbers instead of n²."""

    columns: int
    tokens: int = 0
    square: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.square = torch.zeros(self.columns)

    def update(self, x: Tensor) -> None:
        """Take in x (tokens, columns)."""
        total = self.tokens + len(x)
        if total:
            self.square = self.square.to(x.device) * (self.tokens / total) + x.float().square().sum(0) / total
            self.tokens = total


@dataclass
class Moment:
    """C = E[x xᵀ] (n, n) and μ = E[x] (n,), float32; and where it is asked for `cross`, E[x° xᵀ] (n, n), with x° the
    input of the same layer in the model as it was."""

    columns: int
    tokens: int = 0
    second: Tensor = field(init=False)
    mean: Tensor = field(init=False)
    cross: Tensor | None = None

    def __post_init__(self) -> None:
        self.second = torch.zeros(self.columns, self.columns)
        self.mean = torch.zeros(self.columns)

    @property
    def square(self) -> Tensor:
        """E[x_j²] per column (n,)."""
        return self.second.diagonal()

    def update(self, x: Tensor, original: Tensor | None = None) -> None:
        """Take in x (tokens, columns), and the original model's inputs for the same tokens."""
        total = self.tokens + len(x)
        if total:
            x, old = x.float(), self.tokens / total
            if original is not None:
                cross = torch.zeros_like(self.second) if self.cross is None else self.cross
                self.cross = cross.to(x.device).mul_(old).addmm_(original.float().T, x, alpha=1 / total)
            self.second = self.second.to(x.device).mul_(old).addmm_(x.T, x, alpha=1 / total)
            self.mean = self.mean.to(x.device).mul_(old).add_(x.sum(0), alpha=1 / total)
            self.tokens = total


Statistic = Moment | ColumnNorm


def mixed(parts: Mapping[str, Moment], balance: Balance, gradients: Mapping[str, float] | None = None) -> Moment:
    """One moment out of one per modality.

    `tokens` pools all tokens, so the modality with most tokens dominates. `modality` gives each modality that
    was seen the same weight: a text tower's few tokens count as much as an image's many. `gradient` weighs each by the
    mean size of the loss's gradient at its tokens, `gradients` (MBQ: Li et al. 2025, arXiv 2412.19509), none below 5 %.

    Its `tokens` is the effective number, (Σ w)² / Σ (w²/n): with n tokens of each modality, all that there are; fewer
    where a modality counts for more than its tokens.
    """
    seen = {name: part for name, part in parts.items() if part.tokens}
    if len(seen) == 1:
        return next(iter(seen.values()))
    weights = _shares(seen, balance, gradients or {})
    result = Moment(next(iter(parts.values())).columns)
    for name, part in seen.items():
        result.second = result.second + weights[name] * part.second
        result.mean = result.mean + weights[name] * part.mean
    if all(part.cross is not None for part in seen.values()):
        crosses = [weights[name] * part.cross for name, part in seen.items() if part.cross is not None]
        result.cross = torch.stack(crosses).sum(dim=0)
    result.tokens = round(1 / sum(weights[name] ** 2 / part.tokens for name, part in seen.items()))
    return result


def _shares(parts: Mapping[str, Moment], balance: Balance, gradients: Mapping[str, float]) -> dict[str, float]:
    """The weight of each modality; they sum to 1."""
    if balance == "tokens":
        raw = {name: float(part.tokens) for name, part in parts.items()}
    elif balance == "gradient" and any(gradients.get(name) for name in parts):
        raw = {name: gradients.get(name, 0.0) for name in parts}
        raw = {name: max(value, _LEAST_SHARE * sum(raw.values())) for name, value in raw.items()}
    else:
        raw = dict.fromkeys(parts, 1.0)
    total = sum(raw.values())
    return {name: value / total for name, value in raw.items()}

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

StatisticKind = Literal["moment", "norm"]
Balance = Literal["modality", "tokens"]


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
    """C = E[x xᵀ] (n, n) and μ = E[x] (n,), float32."""

    columns: int
    tokens: int = 0
    second: Tensor = field(init=False)
    mean: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.second = torch.zeros(self.columns, self.columns)
        self.mean = torch.zeros(self.columns)

    @property
    def square(self) -> Tensor:
        """E[x_j²] per column (n,)."""
        return self.second.diagonal()

    def update(self, x: Tensor) -> None:
        """Take in x (tokens, columns)."""
        total = self.tokens + len(x)
        if total:
            x, old = x.float(), self.tokens / total
            self.second = self.second.to(x.device).mul_(old).addmm_(x.T, x, alpha=1 / total)
            self.mean = self.mean.to(x.device).mul_(old).add_(x.sum(0), alpha=1 / total)
            self.tokens = total


Statistic = Moment | ColumnNorm


def mixed(parts: Mapping[str, Moment], balance: Balance) -> Moment:
    """One moment out of one per modality.

    `tokens` pools all tokens, so the modality with most tokens dominates. `modality` gives each modality that
    was seen the same weight: a text tower's few tokens count as much as an image's many.
    """
    seen = [part for part in parts.values() if part.tokens]
    if len(seen) == 1:
        return seen[0]
    result = Moment(next(iter(parts.values())).columns)
    total = sum(part.tokens for part in seen)
    for part in seen:
        weight = 1 / len(seen) if balance == "modality" else part.tokens / total
        result.second = result.second + weight * part.second
        result.mean = result.mean + weight * part.mean
    result.tokens = total
    return result

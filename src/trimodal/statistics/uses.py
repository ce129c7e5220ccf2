"""What is seen of layers whose input has no single second moment: which rows of an embedding are used, and the inputs of a
convolution's groups, each for itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class RowUsage:
    """How often each row of an embedding was looked up: `counts` (rows,)."""

    rows: int
    tokens: int = 0
    counts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.counts = torch.zeros(self.rows, dtype=torch.float64)

    def update(self, ids: Tensor) -> None:
        """Take in the ids (any shape) of one call."""
        found = ids.reshape(-1).long().cpu()
        self.counts += torch.bincount(found, minlength=self.rows)[: self.rows]
        self.tokens += found.numel()


@dataclass
class GroupedMoment:
    """E[x xᵀ] (groups, n, n) and E[x] (groups, n) of the inputs that each group of a convolution reads."""

    groups: int
    columns: int
    tokens: int = 0
    second: Tensor = field(init=False)
    mean: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.second = torch.zeros(self.groups, self.columns, self.columns)
        self.mean = torch.zeros(self.groups, self.columns)

    def update(self, x: Tensor) -> None:
        """Take in x (tokens, groups · columns)."""
        total = self.tokens + len(x)
        if total == 0:
            return
        rows = x.float().reshape(len(x), self.groups, self.columns).transpose(0, 1)  # (groups, tokens, columns)
        kept, second, mean = self.tokens / total, self.second.to(x.device), self.mean.to(x.device)
        self.second = second * kept + rows.transpose(1, 2) @ rows / total
        self.mean = mean * kept + rows.sum(dim=1) / total
        self.tokens = total

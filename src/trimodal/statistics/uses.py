"""What is seen of layers whose input has no single second moment: which rows of an embedding are used, and the inputs of a
convolution's groups or of fused experts, each for itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trimodal.maths.unseen import fill_unseen_moment
from trimodal.statistics.moments import Balance, Moment, weigh_modalities


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
    """E[x xᵀ] (groups, n, n) and E[x] (groups, n) of the inputs that each group of a convolution, or each expert, reads, and how many
    there were of each, `counts` (groups,). `assumed` counts columns of groups that were filled in because no token reached them."""

    groups: int
    columns: int
    tokens: int = 0
    second: Tensor = field(init=False)
    mean: Tensor = field(init=False)
    counts: Tensor = field(init=False)
    assumed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.second = torch.zeros(self.groups, self.columns, self.columns)
        self.mean = torch.zeros(self.groups, self.columns)
        self.counts = torch.zeros(self.groups, dtype=torch.float64)

    @property
    def shares(self) -> Tensor:
        """How many inputs each group has read, as a part of what the one with most has (groups,); 1 where none has."""
        most = float(self.counts.max())
        return self.counts / most if most else torch.ones_like(self.counts)

    @property
    def unreached(self) -> tuple[int, ...]:
        """The groups that no token came to."""
        return tuple((self.counts == 0).nonzero()[:, 0].tolist())

    def moment_of(self, group: int) -> Moment:
        """The moment of one group alone."""
        found = Moment(self.columns, int(self.counts[group]))
        found.second, found.mean = self.second[group], self.mean[group]
        return found

    def fill_unseen(self) -> GroupedMoment:
        """The same with what `maths/unseen.py` assumes, in each group, of columns that no token reached. Groups that none reached at
        all are to be told by `unreached`; their columns are not among those `assumed`."""
        result = copy.copy(self)
        result.second, result.mean = self.second.clone(), self.mean.clone()
        for group in range(self.groups):
            result.second[group], never = fill_unseen_moment(self.second[group])
            result.mean[group].masked_fill_(never.to(self.mean.device), 0.0)
            result.assumed += int(never.sum()) if self.counts[group] else 0
        return result

    def update_group(self, group: int, x: Tensor) -> None:
        """Take in x (tokens, columns) of one group."""
        total = float(self.counts[group]) + len(x)
        if not len(x):
            return
        x, kept = x.float(), float(self.counts[group]) / total
        self.second, self.mean = self.second.to(x.device), self.mean.to(x.device)
        self.second[group] = self.second[group] * kept + x.T @ x / total
        self.mean[group] = self.mean[group] * kept + x.sum(0) / total
        self.counts[group] = total
        self.tokens += len(x)

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
        self.counts += len(x)


def mix_grouped(parts: Mapping[str, GroupedMoment], balance: Balance, gradients: Mapping[str, float] | None = None) -> GroupedMoment:
    """One out of one per modality, as `mix_moments` weighs them, group by group: a modality that did not come to a group says nothing
    of it. `parts` has at least one."""
    first = next(iter(parts.values()))
    if len(parts) == 1:
        return first
    weights = weigh_modalities(parts, balance, gradients or {})
    result = GroupedMoment(first.groups, first.columns)
    whole = torch.zeros(first.groups, dtype=torch.float64)
    for name, part in parts.items():
        weight = weights[name] * (part.counts / max(part.tokens, 1))
        result.second = result.second + weight.float().view(-1, 1, 1).to(part.second.device) * part.second
        result.mean = result.mean + weight.float().view(-1, 1).to(part.mean.device) * part.mean
        whole, result.counts, result.tokens = whole + weight, result.counts + part.counts, result.tokens + part.tokens
    share = torch.where(whole > 0, whole, 1.0).float().to(result.second.device)
    result.second, result.mean = result.second / share.view(-1, 1, 1), result.mean / share.view(-1, 1)
    return result

"""Second moment, mean, column norm and a sample of a stream of tokens, and their mix over modalities.

Every statistic has `update(x)` with x (tokens, in_features) and plain attributes. They are running means, so that the
scale does not depend on how many tokens were seen.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from trimodal.maths.unseen import fill_unseen_moment, fill_unseen_squares, find_unseen_inputs

Balance = Literal["modality", "tokens", "gradient"]
_LEAST_SHARE = 0.05
_SAMPLE_ROWS = 2048
_BLOCK = 256


@dataclass
class ColumnNorm:
    """E[x_j²] per input column (n,), float32: what Wanda needs, at n numbers instead of n². It moves to where its tokens are.
    `assumed` counts columns that were filled in because no token reached them."""

    columns: int
    tokens: int = 0
    square: Tensor = field(init=False)
    assumed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.square = torch.zeros(self.columns)

    def update(self, x: Tensor) -> None:
        """Take in x (tokens, columns)."""
        total = self.tokens + len(x)
        if total:
            self.square = self.square.to(x.device) * (self.tokens / total) + x.float().square().sum(0) / total
            self.tokens = total

    def fill_unseen(self) -> ColumnNorm:
        """The same with what `maths/unseen.py` assumes of columns that no token reached; `assumed` says how many."""
        never = int(find_unseen_inputs(self.square).sum())
        if not never:
            return self
        result = copy.copy(self)
        result.square, result.assumed = fill_unseen_squares(self.square), never
        return result


@dataclass
class Moment:
    """C = E[x xᵀ] (n, n) and μ = E[x] (n,), float32; and where it is asked for `cross`, E[x° xᵀ] (n, n), with x° the input of the
    same layer in the model as it was. All moves to where its tokens are; `device` says where it begins. `assumed` counts
    columns that were filled in because no token reached them."""

    columns: int
    tokens: int = 0
    second: Tensor = field(init=False)
    mean: Tensor = field(init=False)
    cross: Tensor | None = None
    device: torch.device | None = None
    assumed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.second = torch.zeros(self.columns, self.columns, device=self.device)
        self.mean = torch.zeros(self.columns, device=self.device)

    @property
    def square(self) -> Tensor:
        """E[x_j²] per column (n,)."""
        return self.second.diagonal()

    def fill_unseen(self) -> Self:
        """The same with what `maths/unseen.py` assumes of columns that no token reached; `assumed` says how many."""
        second, never = fill_unseen_moment(self.second)
        if not never.any():
            return self
        result = copy.copy(self)
        result.second, result.mean, result.assumed = second, self.mean.masked_fill(never, 0.0), int(never.sum())
        if self.cross is not None:  # nothing is to be moved into them for the original model's sake either
            result.cross = torch.where(never, second, self.cross)
        return result

    def scale_columns(self, factor: Tensor) -> Self:
        """The same of inputs that are multiplied by `factor` (n,), all above 0; those of the original model are not."""
        result = copy.copy(self)
        result.second, result.mean = self.second * factor * factor[:, None], self.mean * factor
        result.cross = None if self.cross is None else self.cross * factor
        return result

    def update(self, x: Tensor, original: Tensor | None = None) -> None:
        """Take in x (tokens, columns), and the original model's inputs for the same tokens."""
        total = self.tokens + len(x)
        if total:
            x, old = x.float(), self.tokens / total
            if original is not None:
                cross = torch.zeros_like(self.second) if self.cross is None else self.cross
                self.cross = cross.to(x.device).mul_(old).addmm_(original.float().T, x, alpha=1 / total)
            self.second = _add_square_(self.second.to(x.device).mul_(old), x, 1 / total)
            self.mean = self.mean.to(x.device).mul_(old).add_(x.sum(0), alpha=1 / total)
            self.tokens = total


def _add_square_(second: Tensor, x: Tensor, scale: float) -> Tensor:
    """`second` (n, n) plus scale · xᵀx for x (tokens, n): blocks on and above the diagonal are computed, the others
    copied, so it is exactly symmetric."""
    for start in range(0, len(second), _BLOCK):
        stop = min(start + _BLOCK, len(second))
        rows = second[start:stop, start:].addmm_(x[:, start:stop].T, x[:, start:], alpha=scale)
        second[stop:, start:stop] = rows[:, stop - start :].T
    return second


@dataclass
class ActivationSample(Moment):
    """A moment with the ends of every column's range, `low` and `high` (n,), and real rows of the input: `rows` (at most
    2,048, n) float32, every token as likely to be among them as any other, the same ones each time.

    What was mixed out of several modalities has their samples in `parts` and what each counts for in `shares`; its own
    rows are theirs, one modality after the other.
    """

    low: Tensor = field(init=False)
    high: Tensor = field(init=False)
    rows: Tensor = field(init=False)
    parts: Mapping[str, ActivationSample] = field(init=False, default_factory=dict)
    shares: Mapping[str, float] = field(init=False, default_factory=dict)
    _keys: Tensor = field(init=False, repr=False)
    _random: torch.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.low = torch.full((self.columns,), torch.inf)
        self.high = torch.full((self.columns,), -torch.inf)
        self.rows = torch.zeros(0, self.columns)
        self._keys = torch.zeros(0, dtype=torch.float64)
        self._random = torch.Generator().manual_seed(0)

    def scale_columns(self, factor: Tensor) -> Self:
        """The same of inputs that are multiplied by `factor` (n,), all above 0."""
        result = super().scale_columns(factor)
        result.low, result.high, result.rows = self.low * factor, self.high * factor, self.rows * factor
        result.parts = {name: part.scale_columns(factor) for name, part in self.parts.items()}
        return result

    def update(self, x: Tensor, original: Tensor | None = None) -> None:
        """Take in x (tokens, columns). Every token draws a number; those with the least ones are kept."""
        super().update(x, original)
        if not len(x):
            return
        x = x.detach().float()
        self.low = torch.minimum(self.low.to(x.device), x.amin(0))
        self.high = torch.maximum(self.high.to(x.device), x.amax(0))
        drawn = torch.rand(len(x), generator=self._random, dtype=torch.float64)
        if len(self._keys) == _SAMPLE_ROWS:
            admitted = drawn < self._keys.max()
            x, drawn = x[admitted.to(x.device)], drawn[admitted]
        keys, rows = torch.cat([self._keys, drawn]), torch.cat([self.rows.to(x.device), x])
        if len(keys) > _SAMPLE_ROWS:
            kept = keys.topk(_SAMPLE_ROWS, largest=False).indices.sort().values
            keys, rows = keys[kept], rows[kept.to(x.device)]
        self._keys, self.rows = keys, rows


def mix_moments(parts: Mapping[str, Moment], balance: Balance, gradients: Mapping[str, float] | None = None) -> Moment:
    """One moment out of one per modality.

    `tokens` pools all tokens, so the modality with most tokens dominates. `modality` gives each modality that
    was seen the same weight: a text tower's few tokens count as much as an image's many. `gradient` weighs each by the
    mean size of the loss's gradient at its tokens, `gradients` (MBQ: Li et al. 2025, arXiv 2412.19509), none below 5 %.

    Its `tokens` is the effective number, (Σ w)² / Σ (w²/n): with n tokens of each modality, all that there are; fewer
    where a modality counts for more than its tokens.
    """
    seen = {name: part for name, part in parts.items() if part.tokens}
    weights = weigh_modalities(seen, balance, gradients or {})
    samples = {name: part for name, part in seen.items() if isinstance(part, ActivationSample)}
    if len(seen) == 1:
        ((name, only),) = seen.items()
        return _mix_samples(copy.copy(only), samples, weights) if isinstance(only, ActivationSample) else only
    columns = next(iter(parts.values())).columns
    result = Moment(columns)
    if seen.keys() == samples.keys():
        result = _mix_samples(ActivationSample(columns), samples, weights)
    for name, part in seen.items():
        result.second = result.second + weights[name] * part.second
        result.mean = result.mean + weights[name] * part.mean
    if all(part.cross is not None for part in seen.values()):
        crosses = [weights[name] * part.cross for name, part in seen.items() if part.cross is not None]
        result.cross = torch.stack(crosses).sum(dim=0)
    result.tokens = round(1 / sum(weights[name] ** 2 / part.tokens for name, part in seen.items()))
    return result


def _mix_samples(result: ActivationSample, parts: Mapping[str, ActivationSample], shares: Mapping[str, float]) -> ActivationSample:
    """`result` with what a sample has beyond a moment."""
    result.parts, result.shares = dict(parts), dict(shares)
    result.low = torch.stack([part.low for part in parts.values()]).amin(0)
    result.high = torch.stack([part.high for part in parts.values()]).amax(0)
    result.rows = torch.cat([part.rows for part in parts.values()])
    return result


class Counted(Protocol):
    """What was seen of something, of so many tokens."""

    @property
    def tokens(self) -> int:
        """How many there were."""


def weigh_modalities(parts: Mapping[str, Counted], balance: Balance, gradients: Mapping[str, float]) -> dict[str, float]:
    """The weight of each modality by `balance`, as `mix_moments` says; they sum to 1."""
    if balance == "tokens":
        raw = {name: float(part.tokens) for name, part in parts.items()}
    elif balance == "gradient" and any(gradients.get(name) for name in parts):
        raw = {name: gradients.get(name, 0.0) for name in parts}
        raw = {name: max(value, _LEAST_SHARE * sum(raw.values())) for name, value in raw.items()}
    else:
        raw = dict.fromkeys(parts, 1.0)
    total = sum(raw.values())
    return {name: value / total for name, value in raw.items()}

"""Uniform grids: which numbers a quantized weight may take, and the nearest of them.

A grid gives every group of `group` neighbouring columns in every row its own scale s and zero-point z, and b bits:

    code = clamp(round(w / s) + z, 0, 2^b − 1)        ŵ = (code − z) · s

Symmetric grids have z = 2^(b−1) everywhere and a *signed* scale that maps the weight of largest magnitude to code 0,
the far end of the range, so that all 2^b codes are used. For the row (1, −0.2) at 2 bits: s = −1 / 2 = −0.5, codes
round(−2) + 2 = 0 and round(0.4) + 2 = 2, decoded (1, 0). Asymmetric grids place
z = round(−lo / s) with lo ≤ 0 ≤ hi forced first, so that zero is always on the grid: without this an all-positive
group would get a zero-point outside the range.

Scales are kept as float16 times one power of two per tensor, and are rounded *before* the codes are chosen, so
that decoding is exact on any machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Clip = Literal["max", "mse"]

_SHRINK_STEPS = 20
_SHRINK_TO = 0.5
_WEIGHTS_AT_ONCE = 2**14  # passed over many times: fits the cache, and stays below where torch starts threads


@dataclass(frozen=True)
class Grid:
    """Scales and zero-points of one weight matrix of `columns` columns.

    `scale` is float16 (rows, groups), to be multiplied by 2^`exponent`; `zero` is uint8 (rows, groups), or None
    for 2^(bits−1) everywhere. rows is 1 if the whole tensor shares one scale.
    """

    scale: Tensor
    exponent: int
    zero: Tensor | None
    bits: int
    group: int
    columns: int

    def scales(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The scales as floats (rows, groups)."""
        return self.scale.to(dtype) * 2.0**self.exponent

    def zeros(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The zero-points as floats (rows, groups)."""
        if self.zero is None:
            return torch.full_like(self.scale, 2 ** (self.bits - 1), dtype=dtype)
        return self.zero.to(dtype)

    def spread(self, per_group: Tensor) -> Tensor:
        """Repeat (rows, groups) to (rows, columns)."""
        if per_group.shape[1] == 1:
            return per_group.expand(-1, self.columns)
        return per_group.repeat_interleave(self.group, dim=1)[:, : self.columns]

    def encode(self, weight: Tensor) -> Tensor:
        """Codes uint8 (rows, columns) of the grid's numbers nearest to `weight`."""
        return nearest_codes(weight, self.spread(self.scales()), self.spread(self.zeros()), self.bits)

    def decode(self, codes: Tensor) -> Tensor:
        """The numbers float32 (rows, columns) that `codes` stand for."""
        return (codes.float() - self.spread(self.zeros())) * self.spread(self.scales())


def nearest_codes(weight: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Codes uint8 of the numbers nearest to `weight`; `scale` and `zero` broadcast against it."""
    return (torch.round(weight / scale) + zero).clamp_(0, 2**bits - 1).to(torch.uint8)


def group_size(group: int | str, columns: int) -> int:
    """Columns per group for the option `group`: a number, `channel` or `tensor` (both: the whole row)."""
    return min(group, columns) if isinstance(group, int) else columns


def grid_bytes(rows: int, columns: int, bits: int, group: int | str, symmetric: bool) -> int:
    """Bytes of codes, scales and zero-points of a matrix that is stored on a grid."""
    scales = (1 if group == "tensor" else rows) * -(-columns // group_size(group, columns))
    return rows * (-(-columns // 8) * bits) + scales * (2 if symmetric else 3)


def fit_grid(weight: Tensor, bits: int, group: int | str, symmetric: bool = True, clip: Clip = "max") -> Grid:
    """Choose scales and zero-points for `weight` (rows, columns).

    `clip` is `max` (the range holds every weight) or `mse` (the range is shrunk per group, in steps, to where
    Σ|w − ŵ|^2.5 is least: after the reference code of Frantar et al. 2023, arXiv 2210.17323, which has the power 2.4).
    """
    rows, columns = weight.shape
    if group == "tensor":
        flat = fit_grid(weight.reshape(1, -1), bits, "channel", symmetric, clip)
        return Grid(flat.scale, flat.exponent, flat.zero, bits, columns, columns)
    size = group_size(group, columns)
    count = -(-columns // size)
    padded = torch.nn.functional.pad(weight.float(), (0, count * size - columns)).view(rows * count, size)
    scale, zero = _choose(padded, bits, symmetric, clip)
    empty = (padded == 0).all(dim=1)  # any scale will do, but it must not decide the exponent of the others
    exponent = _exponent(scale[~empty])
    stored = (scale * 2.0**-exponent).to(torch.float16)
    # A scale below float16's range would decode to nothing and divide by zero; such a group is all but zero.
    stored = torch.where(stored == 0, torch.full_like(stored, 2.0**-24), stored).masked_fill(empty, 1.0)
    zeros = None if symmetric else zero.to(torch.uint8).view(rows, count)
    return Grid(stored.view(rows, count), exponent, zeros, bits, size, columns)


def _choose(groups: Tensor, bits: int, symmetric: bool, clip: Clip) -> tuple[Tensor, Tensor]:
    """Scale and zero-point per row of `groups` (n, size), each (n,)."""
    at_once = max(1, _WEIGHTS_AT_ONCE // groups.shape[1])
    parts = [_choose_part(part, bits, symmetric, clip) for part in groups.split(at_once)]
    return torch.cat([scale for scale, _ in parts]), torch.cat([zero for _, zero in parts])


def _choose_part(groups: Tensor, bits: int, symmetric: bool, clip: Clip) -> tuple[Tensor, Tensor]:
    low, high = groups.amin(dim=1).clamp(max=0), groups.amax(dim=1).clamp(min=0)
    if clip == "max":
        return _span(low, high, bits, symmetric)
    shrink = torch.linspace(1.0, _SHRINK_TO, _SHRINK_STEPS + 1, device=groups.device)
    errors = []
    for factor in shrink.tolist():
        scale, zero = _span(low * factor, high * factor, bits, symmetric)
        errors.append(_power_error(groups, scale, None if symmetric else zero, bits))
    best = shrink[torch.stack(errors).argmin(dim=0)]  # (n,)
    return _span(low * best, high * best, bits, symmetric)


def _span(low: Tensor, high: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero-point (n,) of grids that span `low` ≤ 0 to `high` ≥ 0."""
    if symmetric:
        scale = -torch.where(high >= -low, high, low) / 2 ** (bits - 1)
        zero = torch.full_like(scale, 2 ** (bits - 1))
    else:
        scale = (high - low) / (2**bits - 1)
        zero = torch.round(-low / torch.where(scale == 0, torch.ones_like(scale), scale))
        zero = zero.clamp(0, 2**bits - 1)
    return torch.where(scale == 0, torch.ones_like(scale), scale), zero


def _power_error(groups: Tensor, scale: Tensor, zero: Tensor | None, bits: int) -> Tensor:
    """Σ|w − ŵ|^2.5 per row of `groups` (n, size), as x²·√x: several times cheaper than a general power."""
    steps = (groups / scale[:, None]).round_()
    if zero is None:
        steps.clamp_(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    else:
        steps.clamp_(-zero[:, None], 2**bits - 1 - zero[:, None])
    error = steps.mul_(scale[:, None]).sub_(groups).abs_()
    return error.sqrt().mul_(error.square_()).sum(dim=1)


def _exponent(scale: Tensor) -> int:
    """Power of two that brings the largest scale near 1, where float16 is finest relative to its range."""
    largest = float(scale.abs().max()) if len(scale) else 0.0
    return math.frexp(largest)[1] if math.isfinite(largest) and largest > 0 else 0

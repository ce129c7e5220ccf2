"""Uniform grids: which numbers a quantized weight may take, and the nearest of them.

A grid gives every group of `group` neighbouring columns in every row its own scale s and zero-point z, and b bits:

    code = clamp(round(w / s) + z, 0, 2^b − 1)        ŵ = (code − z) · s

    positive     z = 2^(b−1) everywhere, s > 0: signed whole numbers −2^(b−1) … 2^(b−1) − 1 times a scale, which is what
                 integer runtimes compute with. s = max(−lo / 2^(b−1), hi / (2^(b−1) − 1)) is the least that holds lo ≤ 0 ≤ hi
    symmetric    the same z, and a *signed* scale that maps the weight of largest magnitude to code 0, the far end of the
                 range, so that it always has the end with one code more; no runtime's own format has that
    asymmetric   s = (hi − lo) / (2^b − 1) > 0 and z = round(−lo / s), with lo ≤ 0 ≤ hi forced first, so that zero is always on
                 the grid: without this an all-positive group would get a zero-point outside the range

By hand, 2 bits, W = [[1, −0.2], [0.3, −0.5]]:
    positive     row 0: s = max(0.2 / 2, 1 / 1) = 1, codes round(1) + 2 = 3 and round(−0.2) + 2 = 2, decoded (1, 0);
                 row 1: s = max(0.5 / 2, 0.3 / 1) = 0.3, codes 1 + 2 = 3 and round(−1.67) + 2 = 0, decoded (0.3, −0.6)
    symmetric    row 0: s = −1 / 2 = −0.5, codes round(−2) + 2 = 0 and round(0.4) + 2 = 2, decoded (1, 0);
                 row 1: s = 0.5 / 2 = 0.25, codes round(1.2) + 2 = 3 and round(−2) + 2 = 0, decoded (0.25, −0.5)

Scales are kept as float16 times one power of two per tensor (a positive grid's rounded up, so that its range still holds every
weight), and are rounded *before* the codes are chosen, so that decoding is exact on any machine. A float16
zero-point (HQQ's) need not lie on the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from trimodal.core.storage import group_size
from trimodal.maths.packing import decode_codes, pack_codes

Clip = Literal["max", "mse", "output"]
Uniform = Literal["positive", "symmetric", "asymmetric"]
UNIFORM: tuple[Uniform, ...] = get_args(Uniform)
Rounder = Callable[[Tensor, int], tuple[Tensor, Tensor]]

_SHRINK_STEPS = 20
_SHRINK_TO = 0.5
_WEIGHTS_AT_ONCE = 2**14  # passed over many times: fits the cache, and stays below where torch starts threads


@dataclass(frozen=True)
class Grid:
    """Scales and zero-points of one weight matrix of `columns` columns.

    `scale` is float16 (rows, groups), to be multiplied by 2^`exponent`; `zero` (rows, groups) is uint8 (int32 at 16
    bits), float16 where it need not be whole, or None for 2^(bits−1) everywhere. With `shared` the whole tensor has one
    scale, of shape (1, 1). `positive`: no zero-points, and no scale is below 0.
    """

    scale: Tensor
    exponent: int
    zero: Tensor | None
    bits: int
    group: int
    columns: int
    shared: bool = False
    positive: bool = False

    kind = "quantized"

    def float_scales(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The scales as floats (rows, groups)."""
        return self.scale.to(dtype) * 2.0**self.exponent

    def float_zeros(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The zero-points as floats (rows, groups)."""
        if self.zero is None:
            return torch.full_like(self.scale, 2 ** (self.bits - 1), dtype=dtype)
        return self.zero.to(dtype)

    def select_rows(self, rows: slice) -> Grid:
        """The grid of these rows alone."""
        if self.shared:
            return self
        return replace(self, scale=self.scale[rows], zero=None if self.zero is None else self.zero[rows])

    def encode(self, weight: Tensor) -> Tensor:
        """Codes uint8 (int32 at 16 bits) (rows, columns) of the grid's numbers nearest to `weight`."""
        scale = expand_groups(self.float_scales(), self.group, self.columns)
        zero = expand_groups(self.float_zeros(), self.group, self.columns)
        return self.as_codes((weight / scale).add_(zero).round_().clamp_(0, 2**self.bits - 1))

    def decode(self, codes: Tensor) -> Tensor:
        """The numbers float32 (rows, columns) that `codes` stand for."""
        scale = expand_groups(self.float_scales(), self.group, self.columns)
        zero = expand_groups(self.float_zeros(), self.group, self.columns)
        return codes.to(torch.float32, copy=True).sub_(zero).mul_(scale)

    def make_rounder(self) -> Rounder:
        """A function from one column (rows,) and its number to codes and values (rows,) of the nearest numbers."""
        scale, zero = self.float_scales().T.contiguous().unbind(), self.float_zeros().T.contiguous().unbind()  # of each group: (rows,)
        top, group = 2**self.bits - 1, self.group

        def nearest(column: Tensor, number: int) -> tuple[Tensor, Tensor]:
            s, z = scale[number // group], zero[number // group]
            codes = (column / s).add_(z).round_().clamp_(0, top)
            return codes, (codes - z).mul_(s)

        return nearest

    def as_codes(self, codes: Tensor) -> Tensor:
        """Whole numbers (rows, columns) as the dtype that codes have: uint8, int32 at 16 bits."""
        return codes.to(torch.uint8 if self.bits <= 8 else torch.int32)

    def storage_options(self) -> dict[str, Any]:
        """What storage says of it; see `core/storage.py`."""
        zero = None if self.zero is None else str(self.zero.dtype).removeprefix("torch.")
        positive = {"positive": True} if self.positive else {}
        return {
            "bits": self.bits, "group": self.group, "exponent": self.exponent, "zero": zero, "shared": self.shared, **positive,
        }  # fmt: skip

    def storage_tensors(self, codes: Tensor) -> dict[str, Tensor]:
        """The tensors to store for `codes` (rows, columns), of the shapes and dtypes in `core/storage.py`."""
        zero = {} if self.zero is None else {"zero": self.zero.contiguous()}
        return {"codes": pack_codes(codes, self.bits), "scale": self.scale.contiguous(), **zero}

    @staticmethod
    def from_storage(options: Mapping[str, Any], tensors: Mapping[str, Tensor], columns: int) -> tuple[Grid, Tensor]:
        """The grid and the codes (rows, columns) that `options` and `tensors` hold."""
        grid = Grid(tensors["scale"], options["exponent"], tensors.get("zero"), options["bits"], options["group"],
                    columns, options["shared"], options.get("positive", False))  # fmt: skip
        return grid, decode_codes(options, tensors, columns)

    @staticmethod
    def take_rows(tensors: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
        """The tensors of only the rows at `index` int64 (count,)."""
        return {name: t if name != "codes" and len(t) == 1 else t[index] for name, t in tensors.items()}


def expand_groups(per_group: Tensor, group: int, columns: int) -> Tensor:
    """Repeat (rows, groups) to (rows, columns)."""
    if per_group.shape[1] == 1:
        return per_group.expand(-1, columns)
    return per_group.repeat_interleave(group, dim=1)[:, :columns]


def fit_grid(
    weight: Tensor,
    bits: int,
    group: int | str,
    kind: Uniform = "positive",
    clip: Clip = "max",
    moment: Tensor | None = None,
) -> Grid:
    """Choose scales and zero-points of a grid of `kind` for `weight` (rows, columns).

    `clip` is `max` (the range holds every weight), or the range is shrunk per group, in steps, to where an error is
    least: `mse` takes Σ|w − ŵ|^2.5 (after the reference code of Frantar et al. 2023, arXiv 2210.17323, which has the
    power 2.4), `output` the layer's output error Δw C_gg Δwᵀ with the group's block of `moment`, C (columns, columns)
    (Lin et al. 2024, AWQ, arXiv 2306.00978, in closed form).
    """
    rows, columns = weight.shape
    if group == "tensor":
        flat = fit_grid(weight.reshape(1, -1), bits, "channel", kind, "mse" if clip == "output" else clip)
        return Grid(flat.scale, flat.exponent, flat.zero, bits, columns, columns, True, flat.positive)
    size = group_size(group, columns)
    count = -(-columns // size)
    padded = torch.nn.functional.pad(weight.float(), (0, count * size - columns)).view(rows * count, size)
    if clip == "output" and moment is not None:
        scale, zero = _choose_grid_by_output(padded.view(rows, count, size), moment.float(), bits, kind)
    else:
        scale, zero = _choose_grid(padded, bits, kind, "mse" if clip == "output" else clip)
    empty = (padded == 0).all(dim=1)  # any scale will do, but it must not decide the exponent of the others
    stored, exponent = to_half_scales(scale, empty, kind == "positive")
    zeros = zero.to(torch.uint8 if bits <= 8 else torch.int32).view(rows, count) if kind == "asymmetric" else None
    return Grid(stored.view(rows, count), exponent, zeros, bits, size, columns, positive=kind == "positive")


def to_half_scales(scale: Tensor, empty: Tensor, up: bool = False) -> tuple[Tensor, int]:
    """Scales as float16 and one power of two to multiply them by; 1 for groups that are `empty`, all zeros. They are rounded to
    the nearest, or with `up`, where all are above 0, to the next that is no smaller, so that a range holds what it held."""
    exponent = _choose_exponent(scale[~empty])
    wanted = scale * 2.0**-exponent
    stored = wanted.to(torch.float16)
    if up:
        stored = torch.where(stored.float() < wanted, (stored.view(torch.int16) + 1).view(torch.float16), stored)
    # A scale below float16's range would decode to nothing and divide by zero; such a group is all but zero.
    return torch.where(stored == 0, torch.full_like(stored, 2.0**-24), stored).masked_fill(empty, 1.0), exponent


def _choose_grid(groups: Tensor, bits: int, kind: Uniform, clip: Clip) -> tuple[Tensor, Tensor]:
    """Scale and zero-point per row of `groups` (n, size), each (n,)."""
    at_once = max(1, _WEIGHTS_AT_ONCE // groups.shape[1])
    measure = None if clip == "max" else _power_error
    parts = [_choose_grid_part(part, bits, kind, measure) for part in groups.split(at_once)]
    return torch.cat([scale for scale, _ in parts]), torch.cat([zero for _, zero in parts])


def _choose_grid_by_output(groups: Tensor, moment: Tensor, bits: int, kind: Uniform) -> tuple[Tensor, Tensor]:
    """Scale and zero-point (rows·count,) of `groups` (rows, count, size), each group by its output error."""
    rows, count, size = groups.shape
    found = []
    for number in range(count):
        block = moment[number * size : (number + 1) * size, number * size : (number + 1) * size]

        def measure(error: Tensor, block: Tensor = block) -> Tensor:
            real = error[:, : len(block)]  # the last group may be padded
            return ((real @ block) * real).sum(dim=1)

        found.append(_choose_grid_part(groups[:, number], bits, kind, measure))
    scale, zero = (torch.stack(parts, dim=1).view(rows * count) for parts in zip(*found, strict=True))
    return scale, zero


def _choose_grid_part(
    groups: Tensor, bits: int, kind: Uniform, measure: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Scale and zero-point (n,) per row of `groups` (n, size): over the whole range, or where `measure` of the errors
    (n, size) is least."""
    low, high = groups.amin(dim=1).clamp(max=0), groups.amax(dim=1).clamp(min=0)
    if measure is None:
        return _grid_over_range(low, high, bits, kind)
    shrink = torch.linspace(1.0, _SHRINK_TO, _SHRINK_STEPS + 1, device=groups.device)
    errors = []
    for factor in shrink.tolist():
        scale, zero = _grid_over_range(low * factor, high * factor, bits, kind)
        errors.append(measure(_rounding_error(groups, scale, zero if kind == "asymmetric" else None, bits)))
    least, place = torch.stack(errors).min(dim=0)
    best = shrink[place]  # (n,)
    scale, zero = _grid_over_range(low * best, high * best, bits, kind)
    if kind == "positive":  # what is common, max|w| / (2^(b−1) − 1), is wider, and now and then happens to fit better
        common = torch.maximum(-low, high) / (2 ** (bits - 1) - 1)
        common = torch.where(common == 0, torch.ones_like(common), common)
        scale = torch.where(measure(_rounding_error(groups, common, None, bits)) < least, common, scale)
    return scale, zero


def _grid_over_range(low: Tensor, high: Tensor, bits: int, kind: Uniform) -> tuple[Tensor, Tensor]:
    """Scale and zero-point (n,) of grids that span `low` ≤ 0 to `high` ≥ 0."""
    half = 2 ** (bits - 1)
    if kind != "asymmetric":
        signed = -torch.where(high >= -low, high, low) / half
        scale = torch.maximum(-low / half, high / (half - 1)) if kind == "positive" else signed
        zero = torch.full_like(scale, half)
    else:
        scale = (high - low) / (2**bits - 1)
        zero = torch.round(-low / torch.where(scale == 0, torch.ones_like(scale), scale))
        zero = zero.clamp(0, 2**bits - 1)
    return torch.where(scale == 0, torch.ones_like(scale), scale), zero


def _rounding_error(groups: Tensor, scale: Tensor, zero: Tensor | None, bits: int) -> Tensor:
    """ŵ − w (n, size) of `groups`."""
    steps = (groups / scale[:, None]).round_()
    if zero is None:
        steps.clamp_(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    else:
        steps.clamp_(-zero[:, None], 2**bits - 1 - zero[:, None])
    return steps.mul_(scale[:, None]).sub_(groups)


def _power_error(error: Tensor) -> Tensor:
    """Σ|e|^2.5 per row, as e²·√|e|: several times cheaper than a general power."""
    error = error.abs_()
    return error.sqrt().mul_(error.square_()).sum(dim=1)


def _choose_exponent(scale: Tensor) -> int:
    """Power of two that brings the largest scale near 1, where float16 is finest relative to its range."""
    largest = float(scale.abs().max()) if len(scale) else 0.0
    return math.frexp(largest)[1] if math.isfinite(largest) and largest > 0 else 0

"""Rounding with a gradient: values are those that are stored, to the last bit, and backward goes as if nothing had been rounded.

For numbers v with a step s and a zero-point z on b bits, top = 2^b − 1:

    r = v/s + z,  q = clamp(round(r), 0, top),  v̂ = (q − z)·s

rounding counts as the identity ("straight through", Bengio et al. 2013, arXiv 1308.3432), clamping does not:

                      ∂v̂/∂v     ∂v̂/∂s            ∂v̂/∂z
    0 ≤ r ≤ top         1       (q − z) − v/s       0
    outside             0        q − z             −s

The second column is LSQ's (Esser et al. 2020, arXiv 1902.08153): −Q_N, Q_P outside, round(v/s) − v/s inside. With the third, of a
zero-point that is learned, it is LSQ+ (Bhalgat et al. 2020, arXiv 2004.09576), whose offset β is −z·s. The same with other numbers
in the place of q − z serves codebooks with a scale.

PACT (Choi et al. 2018, arXiv 1805.06085) learns where to clip instead: α moves by the gradients of what lies beyond it.

                      ∂v̂/∂v     ∂v̂/∂lo    ∂v̂/∂hi
    lo ≤ v ≤ hi         1          0          0
    v < lo              0          1          0
    v > hi              0          0          1

The levels of a codebook (k-means) get the gradients of the weights that share them (*hard*). *Soft* ones spread each weight over
all levels, a_k = softmax_k(−(w − L_k)²/τ), for the backward pass alone (after DKM, Cho et al. 2022, arXiv 2108.12659): a weight
between two levels moves both, and is drawn to one.

By hand. v = (0.6, −1.7, 3), s = 0.5, z = 2, 2 bits: r = (3.2, −1.4, 8), q = (3, 0, 3), all outside; ∂v̂/∂s = (1, −2, 1), ∂v̂/∂z = −0.5.
With v = 0.3, r = 2.6 is inside: q = 3, v̂ = 0.5, ∂v̂/∂s = 1 − 0.6 = 0.4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trimodal.maths.codebook import Codebook
from trimodal.maths.grid import Grid, expand_groups
from trimodal.maths.integers import IntegerGrid
from trimodal.maths.observers import fake_quantize, fake_quantize_dynamic

_SOFTNESS = 0.25  # τ in squares of the mean distance of neighbouring levels


class _RoundThrough(torch.autograd.Function):
    """v̂ = units · s, of values that were worked out before."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, s: Tensor, units: Tensor, rounded: Tensor, inside: Tensor | None) -> Tensor:
        ctx.save_for_backward(v, s, units, inside)
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        v, s, units, inside = ctx.saved_tensors
        (g,) = gradients
        wanted = ctx.needs_input_grad
        by_v = g if inside is None else g * inside
        by_s = (g * units - by_v * (v / s)).sum_to_size(s.shape) if wanted[1] else None
        by_units = (g * s).sum_to_size(units.shape) if wanted[2] else None
        return by_v if wanted[0] else None, by_s, by_units, None, None


class _ClipThrough(torch.autograd.Function):
    """v̂ for v between lo and hi, of values that were worked out before."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, low: Tensor, high: Tensor, rounded: Tensor) -> Tensor:
        ctx.save_for_backward(v, low, high)
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        v, low, high = ctx.saved_tensors
        (g,) = gradients
        below, above = v < low, v > high
        return g * ~(below | above), (g * below).sum_to_size(low.shape), (g * above).sum_to_size(high.shape), None


class _Substitute(torch.autograd.Function):
    """One tensor's values with another's gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, differentiated: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, gradients[0]


def substitute_values(values: Tensor, differentiated: Tensor) -> Tensor:
    """`values`, through which gradients go as through `differentiated`, of the same shape."""
    found: Tensor = _Substitute.apply(values, differentiated)  # type: ignore[no-untyped-call]
    return found


def round_on_grid(weight: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    """The numbers of `grid` nearest to `weight` (rows, columns), float32, exactly as they are decoded.

    `scale` and `zero` (rows, groups), or (1, 1), have the values of the grid's own, and take the gradients.
    """
    with torch.no_grad():
        codes = grid.encode(weight)
        rounded = grid.decode(codes)
    s, z = (expand_groups(part, grid.group, grid.columns) for part in (scale, zero))
    with torch.no_grad():
        place = weight / s + z
        inside = (place >= 0) & (place <= 2**grid.bits - 1)
    units = codes.float() - (z if not zero.requires_grad else torch.where(inside, z.detach(), z))
    return _round_through(weight, s, units, rounded, inside)


def round_to_multiples(weight: Tensor, steps: Tensor, grid: IntegerGrid) -> Tensor:
    """The whole multiples of the steps of `grid` nearest to `weight` (rows, columns), float32; `steps` (1, columns) take the gradients."""
    with torch.no_grad():
        codes = grid.encode(weight)
        rounded = grid.decode(codes)
        inside = (weight / steps).abs() <= torch.iinfo(codes.dtype).max
    return _round_through(weight, steps, codes.float(), rounded, inside)


def round_to_levels(weight: Tensor, scale: Tensor | None, levels: Tensor, book: Codebook, soft: bool = False) -> Tensor:
    """The numbers of `book` nearest to `weight` (rows, columns), float32, exactly as they are decoded.

    `levels` float32 (tables, 2^bits) in the order of the book's own and `scale` (rows, groups), where it has one, have the values of the
    book's own, and take the gradients. Nothing is clipped but at the ends of a table that has a scale and is not learned. With `soft`
    levels and weights get the gradients of a soft assignment.
    """
    with torch.no_grad():
        codes = book.encode(weight)
        rounded = book.decode(codes)
    tables = levels.view(-1, -(-book.columns // book.group) if book.per == "group" else 1, levels.shape[1])
    if scale is None:
        units = _pick_levels(tables, codes, book)
        if soft:
            return substitute_values(rounded, _spread_over_levels(weight, tables, book))
        return _round_through(weight, torch.ones((), device=weight.device), units, rounded, None)
    s = expand_groups(scale, book.group, book.columns)
    if levels.requires_grad:
        units = _pick_levels(tables, codes, book)
        if soft:
            return substitute_values(rounded, _spread_over_levels(weight / s, tables, book) * s)
        return _round_through(weight, s, units, rounded, None)
    with torch.no_grad():
        units, place = _pick_levels(tables, codes, book), weight / s
        inside = (place >= levels.min()) & (place <= levels.max())
    return _round_through(weight, s, units, rounded, inside)


def round_inputs(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """`x`, of any shape, float32, through a static grid, exactly as `fake_quantize` gives it back; the scalars `scale` and `zero`
    (whole) take LSQ's and LSQ+'s gradients."""
    with torch.no_grad():
        rounded = fake_quantize(x, scale, zero, bits)
        place = x / scale + zero
        inside = (place >= 0) & (place <= 2**bits - 1)
        units = (rounded / scale).round_()
    if zero.requires_grad:
        units = units + torch.where(inside, torch.zeros((), device=x.device), zero.detach() - zero)
    return _round_through(x, scale, units, rounded, inside)


def clip_inputs(x: Tensor, low: Tensor, high: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """`x`, of any shape, float32, through a static grid, exactly as `fake_quantize` gives it back; its ends, the scalars `low` and
    `high`, take PACT's gradients."""
    with torch.no_grad():
        rounded = fake_quantize(x, scale, zero, bits)
    found: Tensor = _ClipThrough.apply(x, low, high, rounded)  # type: ignore[no-untyped-call]
    return found


def round_inputs_dynamic(x: Tensor, bits: int, dims: tuple[int, ...]) -> Tensor:
    """`x`, of any shape, float32, as `fake_quantize_dynamic` gives it back. Its ranges hold all of it: the gradient goes through whole."""
    with torch.no_grad():
        rounded = fake_quantize_dynamic(x, bits, dims)
    return substitute_values(rounded, x)


def _round_through(v: Tensor, s: Tensor, units: Tensor, rounded: Tensor, inside: Tensor | None) -> Tensor:
    found: Tensor = _RoundThrough.apply(v, s, units, rounded, inside)  # type: ignore[no-untyped-call]
    return found


def _pick_levels(tables: Tensor, codes: Tensor, book: Codebook) -> Tensor:
    """The level of every code (rows, columns), out of `tables` (rows or 1, groups or 1, 2^bits)."""
    at = codes.long()
    if tables.shape[:2] == (1, 1):
        return tables[0, 0][at]
    parts = at.split(book.group if book.per == "group" else book.columns, dim=1)
    return torch.cat([tables[:, g].gather(1, part) for g, part in enumerate(parts)], dim=1)


def _spread_over_levels(weight: Tensor, tables: Tensor, book: Codebook) -> Tensor:
    """Σ_k a_k L_k for `weight` (rows, columns), of `tables` (rows or 1, groups or 1, 2^bits), which ascend."""
    width = (tables[..., -1:] - tables[..., :1]).detach() / (tables.shape[-1] - 1)
    softness = (_SOFTNESS * width.square()).clamp(min=torch.finfo(width.dtype).tiny)
    parts = weight.split(book.group if book.per == "group" else book.columns, dim=1)
    found = []
    for number, part in enumerate(parts):
        table, tau = tables[:, number, None], softness[:, number, None]  # (rows or 1, 1, 2^bits), (rows or 1, 1, 1)
        shares = (-(part[..., None] - table).square() / tau).softmax(dim=-1)
        found.append((shares * table).sum(dim=-1))
    return torch.cat(found, dim=1)

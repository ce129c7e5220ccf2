"""Ranges of activations: from a sample of values to the scale and zero-point of an evenly spaced 8-bit (4 to 8) grid.

    code = clamp(round(x / s) + z, 0, 2^b − 1)        x̂ = (code − z) · s
    s = (hi − lo) / (2^b − 1),  z = round(−lo / s),   with lo ≤ 0 ≤ hi forced, so that zero is on the grid exactly

An *observer* chooses lo and hi:

    minmax       holds every value of the sample. One outlier takes the grid's steps away from all others: vision
                 Transformers collapse (ViT-B 84.5 → 23.6, FQ-ViT, Lin et al. 2022, arXiv 2111.13824); never a default
    percentile   leaves out the same share of the values at either end
    mse          where Σ weight·(x − x̂)² is least
    entropy      where the Kullback-Leibler divergence of the quantized histogram is least (TensorRT's calibration)

The two searches shrink both ends together and then each end for itself, since what follows a GELU reaches from −0.17 to
10 and more. The squared error of a range is computed exactly, from sorted values and prefix sums: per level the number,
sum and sum of squares of what falls to it, so that a range costs as much as the grid has levels and not as much as the
sample has values.

All of it is in float32 and rounds half to even, which is what ONNX's QuantizeLinear does.

By hand. lo = −1, hi = 2 at 4 bits: s = 3/15 = 0.2, z = 5. x = 0.33 → round(1.65) + 5 = 7 → 0.4; x = 3 → 15 → 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Observer = Literal["minmax", "percentile", "mse", "entropy"]
OBSERVERS: tuple[Observer, ...] = ("minmax", "percentile", "mse", "entropy")
PERCENT = 99.99

_STEPS = 96
_SHRINK_TO = 0.01
_SWEEPS = 2
_BINS = 4096

Cost = Callable[[Tensor, Tensor], Tensor]
"""Ends (k,) and (k,) of ranges -> what each costs (k,)."""


def grid_from_range(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero-point, float32 and shaped like `low` and `high`, of the grid from one to the other."""
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, (-low / scale).round().clamp(0, 2**bits - 1)


def quantize_to_codes(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Whole numbers in float32, shaped like `x`."""
    return (x / scale).round_().add_(zero).clamp_(0, 2**bits - 1)


def fake_quantize(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """`x` as the grid gives it back: quantized and decoded, in float32."""
    return quantize_to_codes(x, scale, zero, bits).sub_(zero).mul_(scale)


def fake_quantize_dynamic(x: Tensor, bits: int, dims: tuple[int, ...]) -> Tensor:
    """`x`, of any shape, through grids that hold all of it: one for each run of values along `dims`, as a runtime chooses them
    while it runs."""
    return fake_quantize(x, *grid_from_range(x.amin(dims, keepdim=True), x.amax(dims, keepdim=True), bits), bits)


def choose_range(
    values: Tensor, bits: int, observer: Observer, weights: Tensor | None = None, percent: float = PERCENT
) -> tuple[Tensor, Tensor]:
    """The ends lo ≤ 0 ≤ hi, scalars, of the range that `observer` chooses for `values`, of any shape.

    `weights`, which broadcasts to the values, says how much each counts; `minmax` counts them all. `percent` is the
    share that `percentile` leaves below the upper end, and above the lower one.
    """
    x = values.float().flatten()
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    if observer == "minmax" or bool(low == high):
        return low, high
    w = torch.ones_like(x) if weights is None else weights.float().expand_as(values).flatten()
    if observer == "entropy":
        return _search_range(low, high, _kl_divergence_cost(x, w, low, high, bits))
    order = x.sort()
    w = w[order.indices].double()
    if observer == "percentile":
        mass = w.cumsum(0)
        at = (torch.tensor([100 - percent, percent], dtype=torch.float64, device=x.device) / 100) * mass[-1]
        first, last = torch.searchsorted(mass, at).clamp(max=len(x) - 1)
        return order.values[first].clamp(max=0), order.values[last].clamp(min=0)
    return _search_range(low, high, _squared_error_cost(order.values.double(), w, bits))


def _search_range(low: Tensor, high: Tensor, cost: Cost) -> tuple[Tensor, Tensor]:
    """The range of least cost among those that shrink both ends alike, then each end in turn."""
    factors = torch.logspace(0, torch.log10(torch.tensor(_SHRINK_TO)).item(), _STEPS, device=low.device)
    best = factors[cost(low * factors, high * factors).argmin()]
    found_low, found_high = low * best, high * best
    for _ in range(_SWEEPS):
        found_high = high * factors[cost(found_low.expand_as(factors), high * factors).argmin()]
        found_low = low * factors[cost(low * factors, found_high.expand_as(factors)).argmin()]
    return found_low, found_high


def _squared_error_cost(values: Tensor, weights: Tensor, bits: int) -> Cost:
    """Σ weight·(x − x̂)² over `values` (n,), which ascend."""
    none = values.new_zeros(1)
    mass, moment, square = (
        torch.cat([none, part.cumsum(0)]) for part in (weights, weights * values, weights * values.square())
    )

    def cost(low: Tensor, high: Tensor) -> Tensor:
        scale, zero = grid_from_range(low, high, bits)
        codes = torch.arange(2**bits, device=values.device)
        levels = ((codes - zero[:, None]) * scale[:, None]).double()  # (k, 2^b), ascending
        edges = torch.searchsorted(values, (levels[:, 1:] + levels[:, :-1]) / 2)
        first, last = torch.zeros_like(edges[:, :1]), torch.full_like(edges[:, :1], len(values))
        edges = torch.cat([first, edges, last], dim=1)
        count, total, squares = (part[edges[:, 1:]] - part[edges[:, :-1]] for part in (mass, moment, square))
        return (squares - 2 * levels * total + levels.square() * count).sum(dim=1)

    return cost


def _kl_divergence_cost(values: Tensor, weights: Tensor, low: Tensor, high: Tensor, bits: int) -> Cost:
    """KL(P‖Q) of histograms: P the values, those outside of the range put into its end bins; Q what the grid leaves to
    be told apart, each level's mass spread evenly over the bins that had any."""
    width = (high - low) / _BINS
    bins = ((values - low) / width).long().clamp(0, _BINS - 1)
    mass = torch.zeros(_BINS, dtype=torch.float64, device=values.device).index_add_(0, bins, weights.double())
    centres = low + (torch.arange(_BINS, device=values.device) + 0.5) * width

    def one(start: Tensor, stop: Tensor) -> Tensor:
        inside = (centres >= start) & (centres <= stop)
        within = mass * inside
        if int(inside.sum()) < 2**bits or not bool(within.any()):  # narrower than the histogram can tell
            return torch.tensor(float("inf"), dtype=torch.float64)
        p, filled = within.clone(), within > 0
        ends = filled.nonzero()[:, 0]
        p[ends[0]] += mass[centres < start].sum()
        p[ends[-1]] += mass[centres > stop].sum()
        level = quantize_to_codes(centres, *grid_from_range(start, stop, bits), bits).long()
        total = within.new_zeros(2**bits).index_add_(0, level, within)
        count = within.new_zeros(2**bits).index_add_(0, level, filled.double())
        q = (total / count.clamp(min=1))[level] * filled
        p, q = p[filled] / p.sum(), q[filled] / q.sum()
        return (p * (p / q).log()).sum()

    return lambda starts, stops: torch.stack([one(a, b) for a, b in zip(starts, stops, strict=True)])

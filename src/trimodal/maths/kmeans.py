"""One-dimensional k-means over the rows of a matrix: exact where rows are short, Lloyd's algorithm where they are long."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST_LEVELS_CUT = 16
_LONGEST_CUT = 96
_COSTS_AT_ONCE = 2**19
_SWEEPS = 30


def kmeans(values: Tensor, counts: Tensor, levels: int) -> Tensor:
    """Levels (t, `levels`), ascending, with few Σ counts·(value − nearest level)² over each row of `values` (t, n).

    On sorted values a level's members are neighbours, so that prefix sums judge any run of them at once. Rows of at most 96
    values with at most 16 levels get the optimum, by dynamic programming, O(levels·n²). Others start where the best levels of
    a smooth density lie, as dense as its cube root (Panter and Dite 1951), or evenly over the range, and are
    improved by Lloyd's algorithm, O(sweeps·levels·log n); the better of the two is kept per row.
    """
    values, order = values.double().sort(dim=1)
    counts = counts.double().gather(1, order)
    zero = values.new_zeros(len(values), 1)
    mass, moment, square = (
        torch.cat([zero, part.cumsum(dim=1)], dim=1) for part in (counts, counts * values, counts * values.square())
    )
    low = values.masked_fill(counts <= 0, float("inf")).amin(dim=1, keepdim=True)
    high = values.masked_fill(counts <= 0, float("-inf")).amax(dim=1, keepdim=True)
    if levels <= _MOST_LEVELS_CUT and values.shape[1] <= _LONGEST_CUT:
        at_once = max(1, _COSTS_AT_ONCE // mass.shape[1] ** 2)
        parts = zip(mass.split(at_once), moment.split(at_once), square.split(at_once), low.split(at_once), strict=True)
        return torch.cat([_find_best_runs(*part, levels=levels) for part in parts]).float()
    gaps = torch.nn.functional.pad(values.diff(dim=1), (1, 0))
    crowd = (counts * gaps.square()).pow(1 / 3).cumsum(dim=1)  # the cube root of the density, counts/gaps, times gaps
    at = (torch.arange(levels, dtype=torch.float64, device=values.device) + 0.5) / levels
    places = torch.searchsorted(crowd, at * crowd[:, -1:]).clamp(max=values.shape[1] - 1)
    even = low + (high - low) * torch.linspace(0, 1, levels, dtype=torch.float64, device=values.device)
    tries = [_run_lloyd(values, mass, moment, square, start) for start in (values.gather(1, places), even)]
    better = tries[1][1] < tries[0][1]
    return torch.where(better[:, None], tries[1][0], tries[0][0]).float()


def _find_best_runs(mass: Tensor, moment: Tensor, square: Tensor, low: Tensor, levels: int) -> Tensor:
    """The means (t, k) of the k runs of sorted values that leave the least error, from prefix sums (t, n+1); `low` (t, 1)
    is the least value."""

    def run(sums: Tensor) -> Tensor:
        return sums[:, None, :] - sums[:, :, None]  # (t, from, to)

    cost = (run(square) - run(moment).square_() / run(mass).clamp_(min=1e-300)).clamp_(min=0)
    cost += torch.full(cost.shape[1:], float("inf"), dtype=cost.dtype, device=cost.device).tril_(-1)  # to ≥ from
    best, origins = cost[:, 0], []
    for _ in range(levels - 1):
        best, origin = (best[:, :, None] + cost).min(dim=1)
        origins.append(origin)
    edges = [torch.full_like(low, mass.shape[1] - 1).long()]
    for origin in reversed(origins):
        edges.insert(0, origin.gather(1, edges[0]))
    edges.insert(0, torch.zeros_like(edges[0]))
    weight, total = (sums.gather(1, torch.cat(edges, dim=1)).diff(dim=1) for sums in (mass, moment))
    means = torch.where(weight > 0, total / weight.clamp(min=1e-300), low)  # a run without members sits on another
    return means.cummax(dim=1).values


def _run_lloyd(values: Tensor, mass: Tensor, moment: Tensor, square: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Levels (t, k) after the sweeps, and the error (t,) they leave."""

    def split(sums: Tensor, edges: Tensor) -> Tensor:
        return sums.gather(1, edges[:, 1:]) - sums.gather(1, edges[:, :-1])

    first, last = torch.zeros_like(levels[:, :1]).long(), torch.full_like(levels[:, :1], values.shape[1]).long()
    for _ in range(_SWEEPS):
        edges = torch.searchsorted(values, (levels[:, 1:] + levels[:, :-1]) / 2)
        edges = torch.cat([first, edges, last], dim=1)
        weight, total = split(mass, edges), split(moment, edges)
        levels = torch.where(weight > 0, total / weight.clamp(min=1e-300), levels)
    edges = torch.cat([first, torch.searchsorted(values, (levels[:, 1:] + levels[:, :-1]) / 2), last], dim=1)
    error = split(square, edges) - 2 * levels * split(moment, edges) + levels.square() * split(mass, edges)
    return levels, error.sum(dim=1)


def nearest_levels(values: Tensor, levels: Tensor) -> Tensor:
    """Indices int64, shaped like `values` (rows, k), of the nearest of `levels` (rows or 1, 2^b), which ascend."""
    edges = (levels[:, 1:] + levels[:, :-1]) / 2
    if len(edges) == 1:
        return torch.bucketize(values.contiguous(), edges[0].contiguous())
    return torch.searchsorted(edges.contiguous(), values.contiguous())

"""Exact OBS (Frantar, Singh, Alistarh 2022, Optimal Brain Compression, arXiv 2208.11580): one weight at a time, per row.

Idea. Removing weight p from a row costs w_p² / [H⁻¹]_pp if all others then move to where the error is least. Remove the
cheapest, update the rest and the inverse, go on; one run per row yields every sparsity at once, so how many each row
loses is chosen afterwards, over all rows, from the traces.

Problem. For W (m, n) and C = E[x xᵀ] (n, n), minimise tr((W − Ŵ) C (W − Ŵ)ᵀ) with a given number of zeros in Ŵ.

Algorithm, for every row w (all rows of a part at once):
    1. H⁻¹ = (C + d·mean(diag C)·I)⁻¹, a copy per row                                       (n, n)
    2. p = argmin w_p² / [H⁻¹]_pp over what is left; note the cost
       w −= w_p · H⁻¹[:, p] / [H⁻¹]_pp;   H⁻¹ −= H⁻¹[:, p] H⁻¹[p, :] / [H⁻¹]_pp
       until nothing is left                                                               traces (m, n)
    3. over all rows, the prefixes of the traces with the least cost in sum that remove what is asked for
    4. the mask is what those prefixes left; the kept weights are set exactly (refit)

Removing everything costs the row's whole energy, w C wᵀ: the traces' sum says so, and a test checks it.

Cost O(m·n³) time, n² numbers per row at once: for layers up to some 300 inputs; refused beyond 1024, or
4·10¹² operations, where `prune.sparsegpt` is to be used. Greedy is not
optimal: a pair that is cheap together may be missed. Departs from the paper: prefixes are chosen on the traces made convex
from below (a removal that costs less than the one before it is taken together with it), and the last step refits.
Fails, as all of its kind, where calibration inputs are unlike those met later.

By hand. w = (1, 0.6), C = [[1, 0.8], [0.8, 4]]: H⁻¹ = [[4, −0.8], [−0.8, 1]]/3.36, costs 1·3.36/4 = 0.84 and
0.36·3.36/1 = 1.2096; weight 0 goes, w_1 = 0.6 + 0.2 = 0.8, then [H⁻¹]_11 = ¼ and its cost is 0.64·4 = 2.56.
0.84 + 2.56 = 3.4 = w C wᵀ = 1 + 0.96 + 1.44.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimodal.core import Change, Place, Site
from trimodal.errors import TrimodalError
from trimodal.maths.cholesky import damped_inverse, revive_dead_inputs
from trimodal.maths.masks import keep_largest, kept_count
from trimodal.methods.method import Method, Pace, Weights
from trimodal.methods.options import option
from trimodal.methods.prune import masked
from trimodal.statistics import Moment, Statistic, StatisticKind

_NUMBERS_AT_ONCE = 2**25  # of the inverses that are held, one per row
_MOST_COLUMNS = 1024
_MOST_OPERATIONS = 4e12  # an hour on one slow core; 1024 × 1024 is half of that


@dataclass(frozen=True)
class ObsConfig:
    """Options of `prune.obs`."""

    sparsity: float = option(0.5, "fraction of the weights removed", low=0.0, high=1.0, search=(0.3, 0.5, 0.7, 0.9))
    scope: str = option("layer", "where weights compete: over all rows, or within each row", choices=("layer", "row"))
    damping: float = option(1e-3, "added to diag C, as a share of its mean", low=1e-9, high=1.0)


def refuse(place: Place, config: ObsConfig) -> str | None:
    """Why a place is left alone."""
    site = place.observed_site
    if site.kind == "embedding" or site.is_grouped:
        return "its inputs have no second moment; prune.magnitude works on it"
    if site.columns > _MOST_COLUMNS:
        return f"{site.columns} inputs are too many for the exact method ({_MOST_COLUMNS} at most); use prune.sparsegpt"
    operations = 2.0 * site.rows * site.columns**3
    if operations > _MOST_OPERATIONS:
        return f"the exact method would take {operations:.0e} operations ({_MOST_OPERATIONS:.0e} at most); use prune.sparsegpt"
    return masked.refuse_sparsity(place, _count_kept(site, config))


def wants(place: Place, config: ObsConfig) -> StatisticKind | None:
    """The second moment of the site's input."""
    return "moment"


def forecast(place: Place, config: ObsConfig) -> Sequence[Site]:
    """The site with a mask and its kept weights."""
    return masked.forecast_sparse_site(place.observed_site, _count_kept(place.observed_site, config))


def _count_kept(site: Site, config: ObsConfig) -> int:
    count = masked.count_kept_overall if config.scope == "layer" else masked.count_kept_per_row
    return count(site, config.sparsity)


def trace_removals(weight: Tensor, inverse: Tensor, within: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Steps 1 and 2 for `weight` (m, n) and H⁻¹ (n, n): costs and removed columns, in the order of removal, both (m, n).

    What lies outside the mask `within` (m, n) is removed first, at no cost: at less than that of any weight.
    """
    columns = weight.shape[1]
    at_once = max(1, _NUMBERS_AT_ONCE // columns**2)
    gone = (torch.zeros_like(weight, dtype=torch.bool) if within is None else ~within).split(at_once)
    whole = weight.split(at_once)
    parts = [_trace_rows(part.double(), inverse.double(), none) for part, none in zip(whole, gone, strict=True)]
    return torch.cat([costs for costs, _ in parts]), torch.cat([order for _, order in parts])


def _trace_rows(weight: Tensor, inverse: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = weight.shape
    w, h = weight.clone(), inverse.expand(rows, -1, -1).clone()
    left = torch.ones_like(w, dtype=torch.bool)
    costs, order = torch.empty_like(w), torch.empty(rows, columns, dtype=torch.long, device=w.device)
    every = torch.arange(rows, device=w.device)
    for step in range(columns):
        diagonal = h.diagonal(dim1=1, dim2=2)
        scores = (w.square() / diagonal).masked_fill(gone, -1.0).masked_fill(~left, float("inf"))
        costs[:, step], p = scores.min(dim=1)
        order[:, step] = p
        pivot, column = diagonal[every, p].clone(), h[every, :, p]  # (rows,), (rows, n)
        w -= (w[every, p] / pivot)[:, None] * column
        h.baddbmm_(column[:, :, None], (column / pivot[:, None])[:, None, :], alpha=-1)
        left[every, p] = False
        w[every, p] = 0.0
        h[every, p, p] = 1.0  # out of the game; keeps the division above finite
    return costs, order


def build_mask_from_traces(costs: Tensor, order: Tensor, removed: int) -> Tensor:
    """Step 3: the mask (m, n), True for what stays, after `removed` weights went, by the traces of `costs` (m, n)."""
    level = _fit_convex_slopes(costs)
    gone = torch.zeros_like(costs, dtype=torch.bool)
    # A stable sort keeps each row's own order, so what is taken from a row is always a prefix of its trace.
    taken = torch.sort(level.flatten(), stable=True).indices[:removed]
    gone.view(-1)[taken] = True
    return torch.ones_like(gone).scatter(1, order, ~gone)


def _fit_convex_slopes(costs: Tensor) -> Tensor:
    """The slopes of the largest convex function below each row's running sum: ascending, with the same total."""
    result = torch.empty_like(costs)
    for row, values in enumerate(costs.tolist()):
        runs: list[list[float]] = []  # mean, length
        for value in values:
            runs.append([value, 1])
            while len(runs) > 1 and runs[-2][0] > runs[-1][0]:
                mean, length = runs.pop()
                total = runs[-1][0] * runs[-1][1] + mean * length
                runs[-1] = [total / (runs[-1][1] + length), runs[-1][1] + length]
        result[row] = torch.cat([torch.full((int(length),), mean, dtype=costs.dtype) for mean, length in runs])
    return result


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: ObsConfig) -> Change:
    """Remove weights of the place's site.

    Raises:
        TrimodalError: it was not given the statistic that `wants` asks for.
    """
    if not isinstance(statistic, Moment):
        raise TrimodalError(f"prune.obs at {place.name} was given no second moment")
    site = place.observed_site
    weight = weights[f"{site.path}.weight"].flatten(1)  # (m, n)
    second, _ = revive_dead_inputs(statistic.second)
    inverse, damping = damped_inverse(second, config.damping, statistic.tokens)
    within = masked.mask_of(site, weights)
    costs, order = trace_removals(weight, inverse, within)
    rows, columns = weight.shape
    if config.scope == "row":
        lasts = torch.arange(columns, device=order.device).expand(rows, -1).to(weight.dtype)
        mask = keep_largest(torch.zeros_like(weight).scatter(1, order, lasts), config.sparsity, within)
    else:
        mask = build_mask_from_traces(costs, order, rows * columns - kept_count(rows * columns, config.sparsity))
    found, notes = masked.refit_kept_weights(weight, mask, statistic, max(config.damping, damping))
    return replace(masked.make_sparse_change(site, found, mask), notes=notes)


METHOD = Method(
    name="prune.obs",
    kind="prune",
    paper="Frantar, Singh, Alistarh 2022, Optimal Brain Compression, arXiv 2208.11580",
    idea="Remove one weight at a time at its exact cost, every row's trace kept, and share out what rows lose.",
    config=ObsConfig,
    refuse=refuse,
    wants=wants,
    forecast=forecast,
    pace=Pace(passes=200, products=40, cubes=40),
    solve=solve,
)

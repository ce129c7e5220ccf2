"""Magnitude pruning (Han, Pool, Tran, Dally 2015, arXiv 1506.02626): the smallest weights go.

The baseline of all pruning. Problem: choose a mask M (m, n) that keeps k weights with Σ_{kept} w² largest.

Algorithm.
    1. score |w|, compared within the whole layer (`scope: layer`) or within each row (`scope: row`); with `tower` and
       `global` the layers' shares follow from LAMP scores first (see `methods/scope.py`), then as with `layer`
    2. keep the k largest; among equals the earlier one, so that exactly k stay
    3. with `refit`, set the kept weights to the least-squares optimum on the calibration inputs: per row
       C_SS ŵ_S = (C w)_S                                                             (see `maths/masks.py`)

Cost O(m·n·log), with refit O(m·k³) per layer of k kept columns. Fails when inputs differ much in size: a small weight on
a large input matters. Stored as one bit per weight and the kept values; files shrink, a CPU does not get faster.

What an earlier step has pruned stays pruned, here and in all methods that prune single weights: the new mask lies within
the old one. A row with too few weights left then keeps them all, and the others keep as many more.

By hand. W = [[0.8, −0.2], [0.3, 0.5]], sparsity 0.5: layer scope keeps 0.8 and 0.5; row scope keeps 0.8 and 0.5 too;
for W = [[0.8, −0.6], [0.3, 0.5]] layer scope keeps the first row, row scope 0.8 and 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from trimodal.core import Change, Place, Site
from trimodal.maths.masks import keep_largest
from trimodal.maths.ranking import lamp_scores
from trimodal.methods.method import Method, Pace, Weights
from trimodal.methods.options import option
from trimodal.methods.prune import masked
from trimodal.methods.prune.masked import WeightPruningOptions
from trimodal.methods.scope import Scope, certainty
from trimodal.statistics import Moment, Statistic, StatisticKind


@dataclass(frozen=True)
class MagnitudeConfig(WeightPruningOptions):
    """Options of `prune.magnitude`."""

    scope: Scope | Literal["row"] = option(
        "layer",
        "where weights compete",
        choices=("layer", "row", "tower", "global"),
        search=("layer", "tower", "global"),
    )
    refit: bool = option(False, "set the kept weights to their least-squares values; needs calibration data")


def refuse(place: Place, config: MagnitudeConfig) -> str | None:
    """Why a place is left alone."""
    if config.refit and (place.observed_site.kind == "embedding" or place.observed_site.is_grouped):
        return "its input has no second moment to refit with; prune.magnitude with refit: false works on it"
    return masked.refuse_sparsity(place, _count_kept(place.observed_site, config))


def wants(place: Place, config: MagnitudeConfig) -> StatisticKind | None:
    """The second moment, if the kept weights are refitted."""
    return "moment" if config.refit else None


def forecast(place: Place, config: MagnitudeConfig) -> Sequence[Site]:
    """The site with a mask and its kept weights."""
    return masked.forecast_sparse_site(place.observed_site, _count_kept(place.observed_site, config))


def _count_kept(site: Site, config: MagnitudeConfig) -> int:
    count = masked.count_kept_per_row if config.scope == "row" else masked.count_kept_overall
    return count(site, config.sparsity)


def scores(place: Place, weights: Weights, statistic: Statistic | None, config: MagnitudeConfig) -> Tensor:
    """LAMP of the weights that are left, float64 (count,)."""
    weight = weights[f"{place.observed_site.path}.weight"].flatten(1)
    mask = masked.mask_of(place.observed_site, weights)
    return lamp_scores((weight if mask is None else weight[mask]).flatten().double().square())


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: MagnitudeConfig) -> Change:
    """Remove the smallest weights of the place's site."""
    site = place.observed_site
    weight = weights[f"{site.path}.weight"].flatten(1)  # (m, n)
    notes: tuple[str, ...] = ()
    shape = weight.shape if config.scope == "row" else (1, -1)
    old = masked.mask_of(site, weights)
    within = None if old is None else old.reshape(shape)
    mask = keep_largest(weight.abs().reshape(shape), config.sparsity, within).view_as(weight)
    if config.refit and isinstance(statistic, Moment):
        weight, notes = masked.refit_kept_weights(weight, mask, statistic, config.damping)
    return replace(masked.make_sparse_change(site, weight, mask), notes=notes)


METHOD = Method(
    name="prune.magnitude",
    kind="prune",
    paper="Han, Pool, Tran, Dally 2015, Learning both weights and connections, arXiv 1506.02626",
    idea="The smallest weights go; with refit the others make up for them.",
    config=MagnitudeConfig,
    refuse=refuse,
    wants=wants,
    without_data="the kept weights are not refitted",
    forecast=forecast,
    certainty=certainty,
    scores=scores,
    pace=Pace(passes=30, products=0, cubes=0),
    solve=solve,
)

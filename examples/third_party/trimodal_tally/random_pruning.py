"""Random pruning: weights go by lot, each as likely as any other. What every pruning criterion has to beat.

The lot is drawn from a seed and the layer's path, so that a run can be repeated.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trimodal.core import Change, Place, Site
from trimodal.maths.masks import keep_largest
from trimodal.methods.method import Method, Pace, Weights
from trimodal.methods.options import option
from trimodal.methods.prune import masked
from trimodal.statistics import Statistic


@dataclass(frozen=True)
class RandomConfig:
    """Options of `prune.random`."""

    sparsity: float = option(0.5, "fraction of the weights removed", low=0.0, high=1.0, search=(0.3, 0.5, 0.7))
    seed: int = option(0, "of the lot", low=0)


def refuse(place: Place, config: RandomConfig) -> str | None:
    """Why a place is left alone."""
    return masked.refuse_sparsity(place, masked.count_kept_overall(place.observed_site, config.sparsity))


def forecast(place: Place, config: RandomConfig) -> Sequence[Site]:
    """The site with a mask and its kept weights."""
    return masked.forecast_sparse_site(place.observed_site, masked.count_kept_overall(place.observed_site, config.sparsity))


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: RandomConfig) -> Change:
    """Remove a share of the weights of the place's site, within what an earlier step left."""
    site = place.observed_site
    weight = weights[f"{site.path}.weight"].flatten(1)  # (rows, columns)
    chance = torch.Generator().manual_seed(config.seed + zlib.crc32(site.path.encode()))
    lot = torch.rand(weight.shape, generator=chance)
    old = masked.mask_of(site, weights)
    mask = keep_largest(lot.reshape(1, -1), config.sparsity, None if old is None else old.reshape(1, -1)).view_as(weight)
    return masked.make_sparse_change(site, weight, mask)


METHOD = Method(
    name="prune.random",
    kind="prune",
    paper="folklore; the baseline in every pruning paper",
    idea="Weights go by lot.",
    config=RandomConfig,
    refuse=refuse,
    forecast=forecast,
    pace=Pace(passes=10, products=0, cubes=0),
    solve=solve,
)

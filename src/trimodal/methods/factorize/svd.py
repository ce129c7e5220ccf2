"""Truncated SVD, ASVD (Yuan et al. 2023, arXiv 2312.05821) and FWSVD (Hsu et al. 2022, arXiv 2207.00112): the baselines
that `factorize.eigen` must beat.

Idea. The nearest matrix of rank k keeps the k largest singular values (Eckart, Young 1936). Nearest is not best for the
layer's output; ASVD scales the columns by how loud their inputs are first, FWSVD the rows by how much the loss depends on
them, and both undo it afterwards.

Problem. For W (m, n) and a diagonal S (n,): minimise ‖(W − Ŵ) S‖² over rank k. S = 1 for plain SVD, S_j = (E x_j²)^(α/2)
for ASVD: with α = 1 the layer's output error for inputs that are not correlated. FWSVD (`fisher`): minimise
‖D (W − Ŵ)‖² with D_i² = Σ_j E g_ij² (m,), g the gradients of the loss.

Algorithm.
    1. W · S = U Σ Vᵀ                                                       U (m, r), Σ (r,), V (n, r)
    2. first = Σ_k V_kᵀ / S, second = U_k                                   (k, n), (m, k)
    With `energy`, k is the least for which Σ_{i≤k} Σ_i² reaches that share, up to what `sparsity` or `rank` allow.
    FWSVD does the same to Wᵀ with D for S, and transposes back.

Cost O(m·n·min(m, n)). Needs no data with α = 0. Loses to the eigen form wherever inputs are correlated, which they are;
it pays only below the break-even rank mn/(m+n). Departs from the reference, which takes E|x|^α and a randomised SVD without
oversampling: here it is (E x²)^(α/2), and the SVD is exact.

By hand. W = [[2, 0], [0, 1]], E x² = (1, 16), k = 1. Plain: the singular values are 2 and 1, so first = [[2, 0]],
second = [[1], [0]]; the output error is 16 of 20. With α = 1: W·S = [[2, 0], [0, 4]], the second row stays:
first = [[0, 4/4]] = [[0, 1]], second = [[0], [1]], output error 4 of 20. FWSVD with D = (1, 4) keeps the second row too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimodal.core import Change, Place
from trimodal.maths.lowrank import choose_rank
from trimodal.methods.factorize.factored import (
    EnergyRankOptions,
    certainty,
    forecast,
    make_factored_change,
    rank_of,
    settle_rank,
)
from trimodal.methods.factorize.factored import refuse as factored_refuse
from trimodal.methods.method import Method, Weights
from trimodal.methods.options import option
from trimodal.statistics import Moment, Statistic, StatisticKind, WeightGradient

_LEAST = 1e-4


@dataclass(frozen=True)
class SvdConfig(EnergyRankOptions):
    """Options of `factorize.svd`."""

    alpha: float = option(0.0, "how much an input's size counts: 0 not at all (plain SVD), 0.5 the paper's ASVD, 1 fully",
                          low=0.0, high=1.0, search=(0.0, 0.5, 1.0))  # fmt: skip
    fisher: bool = option(False, "rows count by the loss's gradient at their weights (FWSVD); needs data, and alpha 0")


def refuse(place: Place, config: SvdConfig) -> str | None:
    """Why a place is left alone."""
    if config.fisher and config.alpha:
        return "fisher weighs outputs and alpha inputs; they cannot be combined"
    return factored_refuse(place, config)


def wants(place: Place, config: SvdConfig) -> StatisticKind | None:
    """The gradient of the weight, or the second moment if inputs count, except for an embedding."""
    if config.fisher:
        return "gradient"
    return "moment" if config.alpha and place.observed_site.kind != "embedding" else None


def fit_svd_factors(weight: Tensor, scale: Tensor, rank: int, energy: float | None = None) -> tuple[Tensor, Tensor]:
    """Steps 1 and 2 for W (m, n) and S = `scale` (n,): first (k, n) and second (m, k)."""
    u, s, v = torch.linalg.svd(weight.double() * scale.double(), full_matrices=False)
    rank = choose_rank(s.square(), energy, rank)
    return (s[:rank, None] * v[:rank] / scale.double()).float(), u[:, :rank].float()


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: SvdConfig) -> Change:
    """Factorise the weight of the place's site."""
    return settle_rank(_factorize_weight(place, weights, statistic, config), config)


def _factorize_weight(place: Place, weights: Weights, statistic: Statistic | None, config: SvdConfig) -> Change:
    site, rank = place.observed_site, rank_of(place.observed_site, config)
    weight = weights[f"{site.path}.weight"].flatten(1)  # (m, n)
    if isinstance(statistic, WeightGradient):
        importance = _normalize_importance(statistic.square.sum(dim=1).sqrt())  # of rows
        second, first = fit_svd_factors(weight.T, importance, rank, config.energy)  # of the transpose: rows stand for columns
        second, first = second.T, first.T
        if site.kind == "embedding":
            return make_factored_change(site, second, first.T, None)
        return make_factored_change(site, first, second, weights.get(f"{site.path}.bias"))
    if site.kind == "embedding":
        first, second = fit_svd_factors(weight.T, weight.new_ones(len(weight)), rank, config.energy)
        return make_factored_change(site, first.T, second, None)
    scale = weight.new_ones(weight.shape[1])
    if isinstance(statistic, Moment):
        scale = _normalize_importance(statistic.square.clamp(min=0).sqrt()) ** config.alpha
    first, second = fit_svd_factors(weight, scale, rank, config.energy)
    return make_factored_change(site, first, second, weights.get(f"{site.path}.bias"))


def _normalize_importance(size: Tensor) -> Tensor:
    """`size` (n,) over its largest, but not below 10⁻⁴, so that nothing counts for nothing; ones if all are zero."""
    largest = size.max()
    return (size / largest).clamp(min=_LEAST) if largest > 0 else torch.ones_like(size)


METHOD = Method(
    name="factorize.svd",
    kind="factorize",
    paper="Eckart, Young 1936; with alpha, ASVD: Yuan et al. 2023, arXiv 2312.05821; with fisher, FWSVD: arXiv 2207.00112",
    idea="Keep the largest singular values, of the weight or of the weight times its inputs' or outputs' importance.",
    config=SvdConfig,
    refuse=refuse,
    wants=wants,
    without_data="plain SVD: every input counts alike",
    forecast=forecast,
    certainty=certainty,
    solve=solve,
)

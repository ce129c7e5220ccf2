"""RIA (Zhang, Bai, Lin, Zhao, Hou, Cannistraci, ICLR 2024, OpenReview Tr0lPx9woF): large for its row and for its column.

Idea. A weight matters as far as it is large among the weights of its own output and of its own input, and that input is large. A
row or a column of small weights is then not emptied for being small.

Problem. For W (m, n) and inputs x: choose the weights of the layer to remove; then, with the mask fixed, minimise
tr((W − Ŵ) C (W − Ŵ)ᵀ).

Algorithm.
    1. relative importance R_ij = |w_ij| / Σ_j |w_ij| + |w_ij| / Σ_i |w_ij|            (m, n)
    2. score S_ij = R_ij · (√C_jj)^a with C_jj = E[x_j²] and a = `power`               (m, n)
    3. keep the k largest of the layer; or with `kept` and `of`, within every run of `of` columns the `kept` largest
       With `scope: tower` or `global` the layers' shares follow first from w_ij² C_jj / Σ w² C, as with `prune.wanda`
    4. with `refit`, per row: C_SS ŵ_S = (C w)_S over the kept columns S               (Ŵ (m, n))

Cost O(m·n·log(m·n)), plus O(m·k³) for the refit, k columns kept of n (see `maths/masks.py`).
Fails where a row or a column is small because little depends on it: what it keeps there, others lack. On layers whose rows and
columns are alike the error in the layer's own output, which R does not look at, is up to a quarter above that of `prune.wanda`.
Departs from the paper: a mean over tokens stands for its sum, which is a factor that all scores of a layer share; counts are exact
where the authors' threshold takes ties along; sums of 0 divide nothing, so that an empty row or column scores 0; its channel
permutation for N:M is not here, for it would have to reorder what the layer reads; scopes and step 4 are ours.

By hand. W = [[4, 2], [0.5, 1.5]], C = [[1, 0.8], [0.8, 4]], half removed: sums of rows 6 and 2, of columns 4.5 and 3.5;
R = [[0.666667 + 0.888889, 0.333333 + 0.571429], [0.25 + 0.111111, 0.75 + 0.428571]]; inputs (1, 2)^0.5 = (1, 1.414214);
S = [[1.555556, 1.279527], [0.361111, 1.666752]], so 4 and 1.5 stay. Of |w|·√C_jj = [[4, 4], [0.5, 3]] row 0 would stay alone.
Refit: 4 + 0.8·2 = 5.6 and (0.8·0.5 + 4·1.5)/4 = 1.6; the error falls from 16 + 0.25 = 16.25 to 13.44 + 0.21 = 13.65.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimodal.core import Change, Place, Site
from trimodal.maths.masks import keep_largest, keep_n_of_m
from trimodal.methods.method import Method, Weights
from trimodal.methods.options import option
from trimodal.methods.prune import masked
from trimodal.methods.prune.masked import InputPruningOptions
from trimodal.methods.scope import certainty
from trimodal.statistics import Statistic, StatisticKind


@dataclass(frozen=True)
class RiaConfig(InputPruningOptions):
    """Options of `prune.ria`."""

    power: float = option(0.5, "exponent of the input's size: 0 leaves it out, 1 is Wanda's", low=0.0, high=2.0,
                          search=(0.5, 1.0))  # fmt: skip


def refuse(place: Place, config: RiaConfig) -> str | None:
    """Why a place is left alone."""
    return masked.refuse_inputs(place, config, _count_kept(place.observed_site, config))


def wants(place: Place, config: RiaConfig) -> StatisticKind | None:
    """The second moment for the refit, else the column norms."""
    return config.statistic


def forecast(place: Place, config: RiaConfig) -> Sequence[Site]:
    """The site with a mask and its kept weights."""
    return masked.forecast_sparse_site(place.observed_site, _count_kept(place.observed_site, config))


def _count_kept(site: Site, config: RiaConfig) -> int:
    return config.count_kept(site, masked.count_kept_overall(site, config.sparsity))


def score_weights(weight: Tensor, square: Tensor, power: float) -> Tensor:
    """Steps 1 and 2: S float32 (m, n) of `weight` (m, n) and E[x²] = `square` (n,)."""
    size = weight.abs().float()
    least = torch.finfo(size.dtype).tiny
    relative = size / size.sum(dim=1, keepdim=True).clamp(min=least) + size / size.sum(dim=0).clamp(min=least)
    return relative * square.clamp(min=0).float().sqrt().pow(power)


def choose_mask(weight: Tensor, square: Tensor, config: RiaConfig, within: Tensor | None = None) -> Tensor:
    """Steps 1 to 3: the mask (m, n) for `weight` (m, n) and E[x²] = `square` (n,), inside the mask `within` (m, n)."""
    importance = score_weights(weight, square, config.power)
    if config.kept is not None and config.of is not None:
        return keep_n_of_m(importance, config.kept, config.of)
    inside = None if within is None else within.reshape(1, -1)
    return keep_largest(importance.reshape(1, -1), config.sparsity, inside).view_as(weight)


def scores(place: Place, weights: Weights, statistic: Statistic | None, config: RiaConfig) -> Tensor | None:
    """Every remaining weight's part in the energy of the layer's output, were its inputs not correlated: float64 (count,)."""
    return masked.output_energies(place, weights, statistic)


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: RiaConfig) -> Change:
    """Remove weights of the place's site.

    Raises:
        TrimodalError: it was not given the statistic that `wants` asks for.
    """
    return masked.prune_by_inputs("prune.ria", place, weights, statistic, config, choose_mask)


METHOD = Method(
    name="prune.ria",
    kind="prune",
    paper="Zhang, Bai, Lin, Zhao, Hou, Cannistraci 2024, Plug-and-Play: An Efficient Post-training Pruning Method for Large "
          "Language Models (RIA), ICLR, OpenReview Tr0lPx9woF",
    idea="Weights that are small for their row and column, times the root of their input's size, go; the kept ones are refitted.",
    config=RiaConfig,
    refuse=refuse,
    wants=wants,
    forecast=forecast,
    certainty=certainty,
    scores=scores,
    solve=solve,
)  # fmt: skip

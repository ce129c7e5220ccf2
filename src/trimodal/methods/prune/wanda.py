"""Wanda (Sun, Liu, Bair, Kolter 2023, arXiv 2306.11695), with an exact refit: weights that move the output least go.

Idea. A weight matters as much as it is large *and* its input is large.

Problem. For W (m, n) and inputs x: choose per row the weights to remove; then, with the mask fixed, minimise
tr((W − Ŵ) C (W − Ŵ)ᵀ).

Algorithm.
    1. score |w_ij| · √C_jj with C_jj = E[x_j²]                                       (m, n)
    2. within each row keep the k largest; or with `kept` and `of`, within every run of `of` columns the `kept` largest
       With `scope: tower` or `global` the layers' shares follow first from w_ij² C_jj / Σ w² C, the weight's part in the
       energy of the layer's output if its inputs were not correlated (see `methods/scope.py`); its rows still lose alike
    3. with `refit`, per row: C_SS ŵ_S = (C w)_S over the kept columns S              (Ŵ (m, n))

Cost O(m·n·log n), plus O(m·k³) for the refit, k columns kept of n; beyond 10¹² operations it is conjugate
gradients, 40 products of (m, n) with (n, n) at most, and the record says so (see `maths/masks.py`).
Fails at high sparsity, where removing weights one by one changes which of
the others matter; recover with distillation then. The paper has no step 3: at this library's model sizes it is minutes,
and it beats the streaming updates that larger models need.

By hand. W = [[1, 0.6]], C = [[1, 0.8], [0.8, 4]]: scores 1·1 = 1 and 0.6·2 = 1.2, so column 1 stays although 1 is the
larger weight. Refit: C_11 ŵ = (C w)_1 = 0.8·1 + 4·0.6 = 3.2, ŵ = 0.8; the error falls from 1 to
[1, −0.2] C [1, −0.2]ᵀ = 1 − 0.32 + 0.16 = 0.84.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from trimodal.core import Change, Place, Site
from trimodal.maths.masks import keep_largest, keep_n_of_m
from trimodal.methods.method import Method, Weights
from trimodal.methods.prune import masked
from trimodal.methods.prune.masked import InputPruningOptions
from trimodal.methods.scope import certainty
from trimodal.statistics import Statistic, StatisticKind


@dataclass(frozen=True)
class WandaConfig(InputPruningOptions):
    """Options of `prune.wanda`."""


def refuse(place: Place, config: WandaConfig) -> str | None:
    """Why a place is left alone."""
    return masked.refuse_inputs(place, config, _count_kept(place.observed_site, config))


def wants(place: Place, config: WandaConfig) -> StatisticKind | None:
    """The second moment for the refit, else the column norms."""
    return config.statistic


def forecast(place: Place, config: WandaConfig) -> Sequence[Site]:
    """The site with a mask and its kept weights."""
    return masked.forecast_sparse_site(place.observed_site, _count_kept(place.observed_site, config))


def _count_kept(site: Site, config: WandaConfig) -> int:
    return config.count_kept(site, masked.count_kept_per_row(site, config.sparsity))


def choose_mask(weight: Tensor, square: Tensor, config: WandaConfig, within: Tensor | None = None) -> Tensor:
    """Steps 1 and 2: the mask (m, n) for `weight` (m, n) and E[x²] = `square` (n,), inside the mask `within` (m, n)."""
    scores = weight.abs() * square.clamp(min=0).sqrt()
    if config.kept is not None and config.of is not None:
        return keep_n_of_m(scores, config.kept, config.of)
    return keep_largest(scores, config.sparsity, within)


def scores(place: Place, weights: Weights, statistic: Statistic | None, config: WandaConfig) -> Tensor | None:
    """Every remaining weight's part in the energy of the layer's output, were its inputs not correlated: float64 (count,)."""
    return masked.output_energies(place, weights, statistic)


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: WandaConfig) -> Change:
    """Remove weights of the place's site.

    Raises:
        TrimodalError: it was not given the statistic that `wants` asks for.
    """
    return masked.prune_by_inputs("prune.wanda", place, weights, statistic, config, choose_mask)


METHOD = Method(
    name="prune.wanda",
    kind="prune",
    paper="Sun, Liu, Bair, Kolter 2023, A simple and effective pruning approach (Wanda), arXiv 2306.11695",
    idea="Weights that are small times their input's size go; the kept ones are refitted exactly.",
    config=WandaConfig,
    refuse=refuse,
    wants=wants,
    forecast=forecast,
    certainty=certainty,
    scores=scores,
    solve=solve,
)

"""Pruning by the loss's gradient: what the loss itself says a weight is worth.

Idea. How large a weight is, and how much its layer's output moves without it, say nothing of whether the rest of the model
cares. The gradient of the loss does.

Problem. Setting w to zero changes the loss by −w·g + w²·h/2 − …, with g the gradient and h the curvature; remove the
weights for which that is least.

Algorithm. Over up to 64 samples, one backward pass each, with gradients g_i of every weight at the model as it stands
when its sweep begins:
    1. score of each weight                                                             (m, n)
       `snip`    |w · E g|        sensitivity of the mean loss: Lee, Ajanthan, Torr 2019, SNIP, arXiv 1810.02340
       `taylor`  E |w · g|        first order, sample by sample, so that opposite samples do not cancel:
                                  Molchanov et al. 2017, arXiv 1611.06440
       `fisher`  w² · E g² / 2    second order, with the Fisher information for the curvature: Theis et al. 2018,
                                  arXiv 1801.05787; its idea is Optimal Brain Damage (LeCun, Denker, Solla 1990)
    2. keep the k largest, over the layer or within each row; among equals the earlier one. Where the loss does not
       depend on the layer at all, its weights are ranked by size. All three scores are changes of one loss, so that with
       `scope: tower` or `global` weights of different layers are compared as they are (see `methods/scope.py`).
       A weight that no sample gave a gradient (of a word that the samples do not hold, of an input that never fired) counts
       with the mean over the layer's others, so by its size: it is not free because it was never asked.

The loss is the cross-entropy of the labels or the next tokens that the data has; where it has none, of labels drawn from
the model's own predictions (the expected gradient is zero then, so that `snip` is noise and the others are not); for
embeddings, the scalar product with a random direction.

Cost one backward pass per sample, three numbers of memory per weight. Fails where a well-trained model's gradients are
all but zero; loses to `prune.sparsegpt` where the other weights of the layer can make up for what goes, since nothing
here is refitted: follow it with `distill`.

By hand. w = (1, 0.1), two samples with g = (0.1, 2) and (−0.1, 1): E g = (0, 1.5), so `snip` scores (0, 0.15); `taylor`
(0.1, 0.15): both keep the small weight, as does `fisher` with (0.005, 0.0125). Magnitude would keep the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from trimodal.core import Change, Place, Site
from trimodal.errors import TrimodalError
from trimodal.maths.masks import keep_largest
from trimodal.methods.method import Method, Weights, needs_dense
from trimodal.methods.options import option
from trimodal.methods.prune import masked
from trimodal.methods.scope import Scope, certainty
from trimodal.statistics import Statistic, StatisticKind, WeightGradient

Score = Literal["taylor", "fisher", "snip"]


@dataclass(frozen=True)
class GradientConfig:
    """Options of `prune.gradient`."""

    sparsity: float = option(0.5, "fraction of the weights removed", low=0.0, high=1.0, search=(0.3, 0.5, 0.7))
    score: Score = option(
        "taylor", "what a weight is worth: `taylor` E|w·g|, `fisher` w²·E g²/2, `snip` |w·E g|",
        choices=("taylor", "fisher", "snip"), search=("taylor", "fisher"),
    )  # fmt: skip
    scope: Scope | Literal["row"] = option(
        "layer",
        "where weights compete",
        choices=("layer", "row", "tower", "global"),
        search=("layer", "tower", "global"),
    )


def refuse(place: Place, config: GradientConfig) -> str | None:
    """Why a place is left alone."""
    return needs_dense(place.observed_site)


def wants(place: Place, config: GradientConfig) -> StatisticKind | None:
    """The gradient of the site's weight."""
    return "gradient"


def forecast(place: Place, config: GradientConfig) -> Sequence[Site]:
    """The site with a mask and its kept weights."""
    site = place.observed_site
    count = masked.count_kept_per_row if config.scope == "row" else masked.count_kept_overall
    return masked.forecast_sparse_site(site, count(site, config.sparsity))


def score_weights(weight: Tensor, gradient: WeightGradient, score: Score) -> Tensor:
    """Step 1 for W (m, n)."""
    if score == "fisher":
        return weight.square() * gradient.square / 2
    return weight.abs() * (gradient.size if score == "taylor" else gradient.mean.abs())


def scores(place: Place, weights: Weights, statistic: Statistic | None, config: GradientConfig) -> Tensor | None:
    """Step 1, flat: (m · n,)."""
    weight = weights[f"{place.observed_site.path}.weight"].flatten(1)
    return score_weights(weight, statistic, config.score).flatten() if isinstance(statistic, WeightGradient) else None


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: GradientConfig) -> Change:
    """Remove the weights of the place's site that the loss misses least.

    Raises:
        TrimodalError: it was not given the statistic that `wants` asks for.
    """
    if not isinstance(statistic, WeightGradient):
        raise TrimodalError(f"prune.gradient at {place.name} was given no gradient")
    site = place.observed_site
    weight = weights[f"{site.path}.weight"].flatten(1)  # (m, n)
    notes: tuple[str, ...] = ()
    found = score_weights(weight, statistic, config.score)
    if not found.any():
        found, notes = weight.abs(), ("the loss does not depend on it; ranked by size",)
    rows = found if config.scope == "row" else found.reshape(1, -1)
    return replace(masked.make_sparse_change(site, weight, keep_largest(rows, config.sparsity).view_as(weight)), notes=notes)


METHOD = Method(
    name="prune.gradient",
    kind="prune",
    paper="Molchanov et al. 2017, arXiv 1611.06440; SNIP, Lee et al. 2019, arXiv 1810.02340; Theis et al. 2018, arXiv 1801.05787",
    idea="The weights whose loss the loss itself would notice least go.",
    config=GradientConfig,
    refuse=refuse,
    wants=wants,
    forecast=forecast,
    certainty=certainty,
    scores=scores,
    solve=solve,
)

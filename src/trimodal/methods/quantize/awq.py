"""AWQ (Lin et al. 2024, arXiv 2306.00978): give the columns with loud inputs a finer grid.

Idea. An error in column j reaches the output multiplied by its input x_j. Multiply the columns with large inputs before
rounding and divide after decoding: relative to the weight the grid is then finer where it counts.

Problem. For W (m, n) and C = E[x xᵀ] (n, n), find s (n,) > 0 for which tr(ΔW C ΔWᵀ) is least, ΔW = W − round(W · s) /
s.

Algorithm.
    1. for r = 0, 0.05 … 0.95:
           t_j = (C_jj / max C_jj)^(r/2), at least 10⁻⁴;  s = t / √(max t · min t)      s (n,)
           c = 1 / s in float16, and from now on s = 1 / c                             c (n,)
           E(r) = tr(ΔW C ΔWᵀ) with W · s rounded to nearest                           one number
    2. take the r with the least E(r); r = 0 leaves W as it is
    3. choose codes for W · s: with `feedback` by GPTQ, whose moment is that of the inputs x · c,
       C' = diag(c) C diag(c); of that and of the same with r = 0 keep the one with less error
    4. store c (16 bits per column); decoding multiplies the columns by it

Cost. O(20·m·n²) for the search, times the search of the range inside it; 16·n further bits. One multiplication per
weight when decoding. Gains most at 3 and 4 bits where a few inputs are loud; next to nothing with all inputs alike.
Fails where calibration inputs are quiet in columns that are loud later. Refused without data: an embedding's input is
an index, a grouped convolution has no single C.

Departs from the paper, whose 1/s is folded into the layer before (a norm, or the producing projection): here c stays
with the weight. So no neighbour changes: the shapes of grouped-query attention, the GELU between two layers, a
LayerNorm's bias need no thought; it costs the 16·n bits and the multiplication. The search uses the layer's own error
in closed form instead of a block's on tokens, takes E[x²]^½ for E|x|, and measures it relative to the loudest input, so
that the floor of 10⁻⁴ means the same in any unit. The feedback in step 3 is GPTQ's, which the paper combines with AWQ
too.

By hand. W = [[1, 0.3]], C = diag(0.0016, 1), 2 bits, per channel, grid `symmetric`, range `max`. C/max = (0.0016, 1).
    r = 0:    s = (1, 1); scale −0.5; 0.3 → 0.5;  E = 1·0.2² = 0.04
    r = 0.5:  t = (0.0016^0.25, 1) = (0.2, 1); √(max·min) = 0.447214; s = (0.447214, 2.236068);
              W·s = (0.447214, 0.67082); scale −0.33541; 0.447214 → 0.33541, 0.67082 stays;
              Ŵ = (0.75, 0.3);  E = 0.0016·0.25² = 0.0001
    (c = 1/s, rounded to float16, is (2.236328, 0.447266); this moves Ŵ by less than 10⁻³.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from trimodal.core import Change, Place, Site
from trimodal.errors import TrimodalError
from trimodal.layers import CodedWeight
from trimodal.maths.error import quadratic_form
from trimodal.methods.method import Method, Weights
from trimodal.methods.options import option
from trimodal.methods.quantize import gptq, gridded
from trimodal.methods.quantize.gridded import RoundingOptions
from trimodal.statistics import Moment, Statistic, StatisticKind

_STRENGTHS = [step / 20 for step in range(20)]
_LEAST = 1e-4


@dataclass(frozen=True)
class AwqConfig(RoundingOptions):
    """Options of `quantize.awq`."""

    bits: int = option(4, "bits per weight", low=2, high=8, choices=(16,), unit="bits", search=(2, 3, 4, 6, 8))
    feedback: bool = option(True, "choose codes with GPTQ's feedback instead of the nearest", search=(True, False))
    damping: float = option(0.01, "added to diag C for the feedback, as a share of its mean", low=1e-6, high=1.0,
                            search=(0.01, 0.1))  # fmt: skip


def wants(place: Place, config: AwqConfig) -> StatisticKind:
    """The second moment of the site's input."""
    return "moment"


def forecast(place: Place, config: AwqConfig) -> tuple[Site, ...]:
    """The site on its grid, with a factor per column."""
    return tuple(gridded.forecast(place, config, columns=True))


def compute_column_scales(square: Tensor, strength: float) -> Tensor:
    """Step 1: c (n,) float16 from E[x_j²] = `square` (n,) and r = `strength`."""
    t = (square / square.max().clamp(min=1e-30)).pow(strength / 2).clamp(min=_LEAST)
    return ((t.max() * t.min()).sqrt() / t).half()


def search_scaling_strength(weight: Tensor, moment: Moment, config: AwqConfig) -> tuple[float, dict[float, float]]:
    """Steps 1 and 2: the best r for `weight` (m, n), and E(r) of every r tried."""
    errors = {}
    for strength in _STRENGTHS:
        c = compute_column_scales(moment.square, strength).float()
        levels = gridded.fit_levels(weight / c, config, gridded.transform_moment(moment, partial(torch.mul, c)))
        errors[strength] = quadratic_form(weight - levels.decode(levels.encode(weight / c)) * c, moment.second)
    return min(errors, key=lambda strength: errors[strength]), errors


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: AwqConfig) -> Change:
    """Quantize the weight of the place's site.

    Raises:
        TrimodalError: it was not given the statistic that `wants` asks for.
    """
    if not isinstance(statistic, Moment):
        raise TrimodalError(f"quantize.awq at {place.name} was given no second moment")
    weight = weights[f"{place.observed_site.path}.weight"].flatten(1)  # (m, n)
    best, _ = search_scaling_strength(weight, statistic, config)
    tried = dict.fromkeys((best, 0.0)) if config.feedback else (best,)
    changes = [_quantize_scaled(place, weights, statistic, config, strength) for strength in tried]
    return min(changes, key=lambda change: _measure_error(change, weight, statistic))


def _quantize_scaled(place: Place, weights: Weights, moment: Moment, config: AwqConfig, strength: float) -> Change:
    """Step 3: the weight with its columns scaled by r = `strength`, quantized."""
    factor = compute_column_scales(moment.square, strength)
    c = factor.float()
    scaled = gridded.transform_moment(moment, lambda x: x * c)
    choose: gridded.Chooser = gridded.round_to_nearest
    notes: tuple[str, ...] = (f"columns scaled with exponent {strength:g}",)
    if config.feedback:
        choose, damping = gptq.make_feedback_chooser(scaled, config.damping)
        notes += (f"damping raised to {damping:g}",) if damping > config.damping else ()
    target = weights[f"{place.observed_site.path}.weight"].flatten(1) / c
    return gridded.quantize_weight(
        place, weights, scaled, config, choose, {"columns": factor[None]}, notes, target, columns=True
    )


def _measure_error(change: Change, weight: Tensor, moment: Moment) -> float:
    (treatment,) = change.treatments.values()
    decoded = CodedWeight(treatment.kind, {**treatment.options, "dtype": "float32"}, treatment.tensors)()
    return quadratic_form(weight - decoded.flatten(1), moment.second)


METHOD = Method(
    name="quantize.awq",
    kind="quantize",
    paper="Lin, Tang, Tang, Yang, Dang, Han 2024, AWQ, arXiv 2306.00978",
    idea="Scale up the columns with loud inputs before rounding, and down again when decoding.",
    config=AwqConfig,
    refuse=gptq.refuse,
    wants=wants,
    forecast=forecast,
    solve=solve,
)

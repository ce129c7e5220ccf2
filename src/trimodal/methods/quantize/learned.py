"""SignRound, AutoRound (Cheng et al. 2024, arXiv 2309.05516): learn which way to round, and how far the range goes.

Idea. Rounding up or down is half a step either way. Add a small offset to every weight before rounding, and learn the
offsets, together with the ends of each group's range, by the sign of the gradient of the layer's output error.

Problem. For W (m, n) and C = E[x xᵀ] (n, n), over offsets V (m, n) in [−½, ½] and factors a, c (m, n/group) in (0, 1]
minimise tr((Ŵ − W) C (Ŵ − W)ᵀ) with

    Ŵ = (q − z)·s,   q = clamp(round(W/s + z + V), 0, 2^b − 1)                        (m, n)
    asymmetric:  s = (hi·c − lo·a)/(2^b − 1),  z = round(−lo·a/s)                      (m, n/group)
    positive:    s = a·max(−lo/2^(b−1), hi/(2^(b−1) − 1)), z = 2^(b−1)
    symmetric:   s = −ext·a/2^(b−1), ext the weight of largest magnitude, z = 2^(b−1)

Algorithm. From V = 0 and the range that `clip` finds, for t = 0 … T−1, with T = `steps`:
    1. G = 2·(Ŵ − W) C, the gradient with respect to Ŵ; the error per row is half of Σ_j (Ŵ − W)_j G_j    (m, n)
    2. keep this step's codes, scales and zero-points for every row with less error than ever before
    3. rounding counts as the identity when differentiating ("straight through"), and where it does not clamp
           ∂Ŵ/∂V = s,     ∂Ŵ/∂s = (q − z) − W/s,     ∂Ŵ/∂z = 0
       where it clamps
           ∂Ŵ/∂V = 0,     ∂Ŵ/∂s = q − z,             ∂Ŵ/∂z = −s
       and for a and c the chain rule goes through s and z, summed over the group
    4. V, a, c move by −(1/T)·(1 − t/T)·sign(gradient), then into their bounds

Scales are rounded to float16 in every step, so that the error in step 1 is that of what will be stored. Rows do not
share anything in this problem, so each keeps its own best step, and none is worse than it was at the start.

Cost. O(T·m·n²): T times as many operations as GPTQ. No damping: an offset moves a weight by one step at most, so that
few tokens do little harm. Loses to GPTQ where many tokens and small groups let its feedback carry further than one
step. Refused without data, and so for embeddings and grouped convolutions.

Departs from the paper: it minimises the error of a whole block's output on batches of tokens, which sees what layers do
to each other; here it is the layer's own error in closed form, which needs no autograd, no tokens kept and no second
pass, and which is exact for the layer. One factor for the positive and the symmetric grid instead of two, since
their ends move together. The range starts at the clip that was searched, not at the whole range. Weights that are exactly
zero stay zero.

By hand. W = [[3, 0.6, 0.55]], 2 bits, asymmetric, `max`, T = 2; the first input never fires, C = 1 among the other two.
    t = 0: s = 3/3 = 1, z = 0, a = c = 1; Ŵ = (3, 1, 1), error (0.4 + 0.45)² = 0.7225; G = 2·(0, 0.85, 0.85)
           V − ½·sign(G·s) = (0, −0.5, −0.5); ∂/∂s = 1.7·(1 − 0.6) + 1.7·(1 − 0.55) = 1.445, so c = 1 − ½ = 0.5
    t = 1: s = 0.5; round(6), round(1.2 − 0.5), round(1.1 − 0.5), at most 3: q = (3, 1, 1); Ŵ = (1.5, 0.5, 0.5),
           error (−0.1 − 0.05)² = 0.0225: kept. (The first weight is clipped, which nobody sees.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from trimodal.core import Change, Place, Treatment
from trimodal.errors import TrimodalError
from trimodal.maths.grid import UNIFORM, Grid, Uniform, fit_grid
from trimodal.methods.method import Method, Pace, Weights
from trimodal.methods.options import option
from trimodal.methods.quantize import gptq, gridded
from trimodal.methods.quantize.gridded import RoundingOptions
from trimodal.statistics import Moment, Statistic, StatisticKind

_LEAST_FACTOR = 0.01


@dataclass(frozen=True)
class LearnedConfig(RoundingOptions):
    """Options of `quantize.learned`."""

    bits: int = option(4, "bits per weight", low=2, high=8, unit="bits", search=(2, 3, 4, 6, 8))
    group: int | str = option("channel", "columns that share a scale: a number, or `channel` (a scale per row)", low=8,
                              choices=("channel",), unit="columns", search=("channel", 128, 64, 32))  # fmt: skip
    grid: Uniform = option(  # type: ignore[assignment]
        "asymmetric", "the numbers a weight may take: `positive` (evenly spaced, scale above 0), `symmetric` (signed scale) or "
        "`asymmetric` (with a zero-point)", choices=UNIFORM, search=("positive", "asymmetric"),
    )  # fmt: skip
    steps: int = option(200, "steps of sign gradient descent", low=1, high=10_000, search=(200,))


def wants(place: Place, config: LearnedConfig) -> StatisticKind:
    """The second moment of the site's input."""
    return "moment"


@dataclass
class _LearnedRange:
    """The ends of each group's range, (m, n/group), and the factors on them that are learned."""

    low: Tensor
    high: Tensor
    grid: Grid
    low_factor: Tensor
    high_factor: Tensor

    @property
    def has_one_factor(self) -> bool:
        return self.grid.zero is None

    def compute_scale_and_zero(self) -> tuple[Tensor, Tensor]:
        """s and z as they would be stored, in float32."""
        top = 2**self.grid.bits - 1
        if self.has_one_factor:
            scale = self.whole_step * self.low_factor
        else:
            scale = (self.high * self.high_factor - self.low * self.low_factor) / top
        unit = 2.0**self.grid.exponent
        scale = (scale / unit).half().float() * unit
        scale = torch.where(scale == 0, self.grid.float_scales(), scale)  # a group of zeros, or next to it
        if self.has_one_factor:
            return scale, self.grid.float_zeros()
        return scale, (-self.low * self.low_factor / scale).round().clamp(0, top)

    @property
    def whole_step(self) -> Tensor:
        """s at a = 1, where the grid has one factor."""
        half: int = 2 ** (self.grid.bits - 1)
        if self.grid.positive:
            return torch.maximum(-self.low / half, self.high / (half - 1))
        return -torch.where(self.high >= -self.low, self.high, self.low) / half

    def update_factors_(self, by_scale: Tensor, by_zero: Tensor, scale: Tensor, rate: float) -> None:
        """Step 4 for the factors, given the gradients (m, n/group) with respect to s and z."""
        top = 2**self.grid.bits - 1
        if self.has_one_factor:
            gradients = (by_scale * self.whole_step, torch.zeros_like(by_scale))
        else:
            through = by_scale + by_zero * self.low * self.low_factor / scale.square()
            gradients = (-through * self.low / top - by_zero * self.low / scale, through * self.high / top)
        for factor, gradient in zip((self.low_factor, self.high_factor), gradients, strict=True):
            factor.sub_(rate * gradient.sign()).clamp_(_LEAST_FACTOR, 1.0)


def learn_rounding(weight: Tensor, moment: Tensor, start: Grid, steps: int) -> tuple[Grid, Tensor]:
    """The grid and the codes (m, n) for `weight` (m, n) and C = `moment` (n, n), no row worse than on `start`."""
    count, padding, columns = start.scale.shape[1], -weight.shape[1] % start.group, weight.shape[1]
    w = functional.pad(weight, (0, padding))  # zeros that stay zeros and that no input ever meets
    c = functional.pad(moment, (0, padding, 0, padding))
    ends = _init_range(w, start)
    offsets, free, top = torch.zeros_like(w), w != 0, 2**start.bits - 1
    codes, scales, zeros = start.encode(weight), start.float_scales(), start.float_zeros()
    least = _row_errors(start.decode(codes) - weight, moment)

    def wide(per_group: Tensor) -> Tensor:
        return per_group.repeat_interleave(start.group, dim=1)

    def summed(per_weight: Tensor) -> Tensor:
        return per_weight.view(-1, count, start.group).sum(dim=2)

    for step in range(steps):
        scale, zero = ends.compute_scale_and_zero()
        s, z = wide(scale), wide(zero)
        ratio = w / s
        rounded = (ratio + z + offsets).round_()
        q = rounded.clamp(0, top)
        inside = rounded == q
        error = (q - z) * s - w
        gradient = error @ c  # half of it; only signs matter
        total = (error * gradient).sum(dim=1)
        better = total < least
        least = torch.where(better, total, least)
        codes[better] = start.as_codes(q[better, :columns])
        scales[better], zeros[better] = scale[better], zero[better]
        rate = (1 - step / steps) / steps
        offsets.sub_(rate * (gradient * s).sign() * (inside & free)).clamp_(-0.5, 0.5)
        by_scale = summed(gradient * (q - z - ratio * inside))
        by_zero = summed(-gradient * s * ~inside)
        ends.update_factors_(by_scale, by_zero, scale, rate)
    return _keep_better_rows(weight, moment, start, scales, zeros, codes)


def _init_range(w: Tensor, start: Grid) -> _LearnedRange:
    """The whole range of each group, and the factors that make `start` of it."""
    groups = w.view(len(w), -1, start.group)
    low, high = groups.amin(dim=2).clamp(max=0), groups.amax(dim=2).clamp(min=0)
    ends = _LearnedRange(low, high, start, torch.ones_like(low), torch.ones_like(low))
    whole, _ = ends.compute_scale_and_zero()
    factor = (start.float_scales() / whole).clamp(_LEAST_FACTOR, 1.0)
    return replace(ends, low_factor=factor.clone(), high_factor=factor.clone())


def _row_errors(error: Tensor, moment: Tensor) -> Tensor:
    return ((error @ moment) * error).sum(dim=1)


def _keep_better_rows(
    weight: Tensor, moment: Tensor, start: Grid, scales: Tensor, zeros: Tensor, codes: Tensor
) -> tuple[Grid, Tensor]:
    """What was found, with the rows of `start` where, counted in float64, that is not better after all."""
    zero = None if start.zero is None else zeros.to(start.zero.dtype)
    found = replace(start, scale=(scales * 2.0**-start.exponent).half(), zero=zero)
    before = start.encode(weight)
    decoded = (start.decode(before), found.decode(codes))
    errors = (_row_errors((after - weight).double(), moment.double()) for after in decoded)
    worse = torch.lt(*errors)
    found.scale[worse], codes[worse] = start.scale[worse], before[worse]
    if found.zero is not None and start.zero is not None:
        found.zero[worse] = start.zero[worse]
    return found, codes


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: LearnedConfig) -> Change:
    """Quantize the weight of the place's site.

    Raises:
        TrimodalError: it was not given the statistic that `wants` asks for.
    """
    if not isinstance(statistic, Moment):
        raise TrimodalError(f"quantize.learned at {place.name} was given no second moment")
    site = place.observed_site
    weight = weights[f"{site.path}.weight"].flatten(1).float()  # (m, n)
    start = fit_grid(weight, config.bits, config.group, config.grid, config.clip, statistic.second)
    grid, codes = learn_rounding(weight, statistic.second, start, config.steps)
    options = {"shape": list(site.shape), "dtype": site.dtype, **grid.storage_options()}
    return Change({site.path: Treatment(grid.kind, options, grid.storage_tensors(codes))})


METHOD = Method(
    name="quantize.learned",
    kind="quantize",
    paper="Cheng et al. 2024, SignRound (AutoRound), arXiv 2309.05516",
    idea="Learn by sign gradient descent which way each weight is rounded and how far each group's range goes.",
    config=LearnedConfig,
    refuse=gptq.refuse,
    wants=wants,
    forecast=gridded.forecast,
    pace=Pace(passes=2000, products=400, cubes=0),
    solve=solve,
)

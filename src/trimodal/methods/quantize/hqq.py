"""HQQ, half-quadratic quantization (Badri and Shaji 2023, mobiusml/hqq): fit the zero-point, without any data.

Idea. A few weights lie far out. Rather than stretching the grid to them, let their errors be large, and move the grid
to where the many others fall on its numbers.

Problem. For W (m, n) in groups of columns, each with a step s that spans its range: find the zero-point z, no whole
number, for which Σ|w − ŵ|^p is least, ŵ = (clamp(round(w/s + z), 0, 2^b − 1) − z)·s, p = 0.7. A p below 1 asks for many
errors near 0 and allows a few large ones.

Algorithm. All per group; errors are counted in steps, so w, e, f below mean w/s, e/s, f/s. β = `beta` at first.
    1. s and z of the asymmetric grid over the range that `clip` says                     s, z (m, n/group)
    2. q = clamp(round(w + z), 0, 2^b − 1);  e = w − (q − z)                              (m, n)
    3. f = sign(e)·max(|e| − |e|^(p−1)/β, 0): the part of the error to be left alone      (m, n)
    4. z ← mean over the group of q − (w − f), that is z − mean(e − f)
    5. with z rounded to float16, if Σ|e|^p is the least so far, keep it;  β ← 1.01·β;  from 2 again, `steps` times
    6. store the best z of each group in float16, s in float16, and the codes

Cost. O(steps·m·n); 16 + 16 bits per group. Works on linear layers, any convolution and embeddings. Since every group
keeps its best z and begins with plain rounding, Σ|e|^p is never larger than that of rounding over the same range.
Nothing of the sort holds for Σ(w − ŵ)², which p = 0.7 does not look at: in practice it falls too, but from the whole
range (`max`, the paper's) it stays above that of `quantize.rtn` with `clip: mse` at 2 and 3 bits (0.94 and 0.90 of
rounding over the whole range, against 0.61 and 0.82, Student-t weights in groups of 64), since s still spans the
outermost weights. Hence the default `mse`: 0.58 and 0.77. Loses to anything that has data; weights that are zero do not
stay so, except in groups of nothing else.

Departs from the reference. Its `beta` acts on errors as they are: for weights of 0.02 the threshold β^(−1/(2−p)) = 0.17
is never reached, f is 0, and z only takes away the mean error; in steps, 0.17 means the same everywhere. It stops after
an update that made things worse and keeps that update's z; here the best is kept, per group, as it will be stored.

By hand. W = [[−0.3, 0.7, 1.7, 2.7]], 2 bits, per channel, `max`: s = 3/3 = 1, z = round(0.3) = 0.
    q = (0, 1, 2, 3); e = −0.3 each; Σ|e|^0.7 = 4·0.3^0.7 = 1.722046
    β = 10:   |e|^(−0.3)/β = 0.143504; f = −0.156496; z = 0 + 0.143504; e = −0.156496 each
    β = 10.1: |e|^(−0.3)/β = 0.172714 > |e|; f = 0; z = 0.143504 + 0.156496 = 0.3; in float16 0.300049, and e = 0.000049
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from trimodal.core import Change, Place, Site, Treatment
from trimodal.core.storage import group_size
from trimodal.maths.grid import Grid, fit_grid
from trimodal.methods.method import Method, Pace, Weights, needs_dense
from trimodal.methods.options import option
from trimodal.statistics import Statistic

_GROWTH = 1.01


@dataclass(frozen=True)
class HqqConfig:
    """Options of `quantize.hqq`."""

    bits: int = option(4, "bits per weight", low=2, high=8, unit="bits", search=(2, 3, 4, 6, 8))
    group: int | str = option(64, "columns that share a scale and a zero-point: a number, or `channel`: the whole row",
                              low=8, choices=("channel",), unit="columns", search=(128, 64, 32))  # fmt: skip
    clip: Literal["max", "mse"] = option(
        "mse", "range that the step spans: `max` every weight, `mse` where Σ|w − ŵ|^2.5 is least",
        choices=("max", "mse"), search=("max", "mse"),
    )  # fmt: skip
    power: float = option(0.7, "p: below 1 a few large errors are let be for many small ones", low=0.1, high=2.0,
                          search=(0.7, 1.0))  # fmt: skip
    steps: int = option(20, "times that the zero-point is updated", low=1, high=1000, search=(20,))
    beta: float = option(10.0, "how soon an error, counted in steps of the grid, counts as one to be let be", low=0.1,
                         high=1e4, search=(10.0,))  # fmt: skip


def refuse(place: Place, config: HqqConfig) -> str | None:
    """Why a place is left alone."""
    return needs_dense(place.observed_site)


def forecast(place: Place, config: HqqConfig) -> Sequence[Site]:
    """The site with its weight on an asymmetric grid with float16 zero-points."""
    site = place.observed_site
    options: dict[str, Any] = {
        "shape": site.shape, "dtype": site.dtype, "bits": config.bits, "exponent": 0, "zero": "float16",
        "shared": False, "group": group_size(config.group, site.columns),
    }  # fmt: skip
    return (site.store_as("quantized", options),)


def shrink_error(error: Tensor, power: float, beta: float) -> Tensor:
    """Step 3: the part of `error` that is left alone, shaped like it."""
    size = error.abs()
    return error.sign() * (size - size.pow(power - 1) / beta).clamp(min=0)


def fit_zero_points(weight: Tensor, config: HqqConfig) -> Grid:
    """Steps 1 to 5: the grid for `weight` (m, n)."""
    start = fit_grid(weight, config.bits, config.group, "asymmetric", config.clip)
    count, padding = start.scale.shape[1], -weight.shape[1] % start.group
    real = functional.pad(torch.ones_like(weight), (0, padding)).view(-1, count, start.group)
    w = functional.pad(weight, (0, padding)).view_as(real) / start.float_scales()[:, :, None]  # (m, n/group, group)

    def errors(zero: Tensor) -> Tensor:
        q = (w + zero[:, :, None]).round_().clamp_(0, 2**config.bits - 1)
        return w - (q - zero[:, :, None])

    def total(error: Tensor) -> Tensor:
        return (error.abs().pow(config.power) * real).sum(dim=2)

    zero, beta = start.float_zeros(), config.beta  # (m, n/group)
    best, least = zero, total(errors(zero))
    for _ in range(config.steps):
        error = errors(zero)
        zero = zero - ((error - shrink_error(error, config.power, beta)) * real).sum(dim=2) / real.sum(dim=2)
        stored = zero.half().float()
        now = total(errors(stored))
        best, least = torch.where(now < least, stored, best), torch.minimum(now, least)
        beta *= _GROWTH
    return replace(start, zero=best.half())


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: HqqConfig) -> Change:
    """Quantize the weight of the place's site."""
    site = place.observed_site
    weight = weights[f"{site.path}.weight"].flatten(1)  # (m, n)
    grid = fit_zero_points(weight, config)
    options = {"shape": list(site.shape), "dtype": site.dtype, **grid.storage_options()}
    return Change({site.path: Treatment(grid.kind, options, grid.storage_tensors(grid.encode(weight)))})


METHOD = Method(
    name="quantize.hqq",
    kind="quantize",
    paper="Badri, Shaji 2023, Half-Quadratic Quantization of Large Machine Learning Models, mobiusml/hqq",
    idea="Move each group's zero-point to where most weights fall on the grid; needs no data.",
    config=HqqConfig,
    refuse=refuse,
    forecast=forecast,
    pace=Pace(passes=400, products=0, cubes=0),
    solve=solve,
)

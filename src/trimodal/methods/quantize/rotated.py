"""Rotation (QuaRot: Ashkboos et al. 2024, arXiv 2404.00456; incoherence, QuIP: Chee et al. 2023, arXiv 2307.13304).

Idea. A grid fits numbers that are all about as large as each other. Turn the layer's input coordinates by a random
rotation: every new weight is a mean over many old ones, and no single one sticks out any more.

Problem. For W (m, n) with a few weights, or whole columns, much larger than the rest, find an orthogonal R (n, n),
cheap to apply and to store, for which W R rounds well. The layer's output is the same: x Wᵀ = (x R)(W R)ᵀ.

Algorithm.
    1. signs: ±1 per column, from a seed that follows from the place's name and `seed`       d (n,)
    2. R = diag(d) H with H = Sylvester's Hadamard matrix in blocks of b columns, b the largest power of two that
       divides n; H is symmetric and H H = I                                                          W R (m, n)
    3. choose codes for W R: with `feedback` by GPTQ, whose moment is Rᵀ C R; else the nearest
    4. store the signs, one bit per column; decoding computes (Ŵ H) · d

Cost. O(m·n·log b) on top of GPTQ's; n further bits. At run time log2(b) additions per weight whenever the layer
decodes; a runtime that decodes once pays once. One that keeps codes rotates its input instead, n·log2(b) additions per
token. Gains where weights have outliers, and with feedback also where inputs have: GPTQ's error is tr of a diagonal
whose product no rotation changes, and which a rotation makes even. Fails, and is refused, where n has no power of two
of 8 or more as a divisor (a first convolution's 3·7·7 = 147). Loses without feedback where weights fill their range
evenly already: it turns a uniform distribution into a normal one, which doubles the error at 4 bits. Weights that are
zero do not stay so.

Departs from the papers. They rotate the whole residual stream, fold the matrices into all layers that write to it or
read from it, and need RMSNorm for it: a norm's scale must be folded away first, and a LayerNorm's mean subtracted by
the layers that write (x − mean(x) does not commute with a rotation). Here the rotation begins and ends inside one
layer. What goes in and comes out is what it always was, so norms stay as they are, and any layer of any tower can be
rotated alone. The price is the additions at run time, and that activations are not made easier to quantize, which is
the papers' aim.

By hand. W = [[3, 1]], signs (1, −1), H = [[1, 1], [1, −1]] / √2:
    W · d = (3, −1);  (W · d) H = (2, 4)/√2 = (1.414214, 2.828427).
    On a grid of step √2 both are exact; and back: (1.414214, 2.828427) H = (6, −2)/2 = (3, −1); times d = (3, 1).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from trimodal.core import Change, Place, Site
from trimodal.maths.packing import pack_codes
from trimodal.maths.transform import random_signs, rotate_columns, rotation_block
from trimodal.methods.method import Method, Weights
from trimodal.methods.options import option
from trimodal.methods.quantize import gptq, gridded
from trimodal.methods.quantize.gridded import RoundingOptions
from trimodal.statistics import Moment, Statistic, StatisticKind

_LEAST_BLOCK = 8


@dataclass(frozen=True)
class RotatedConfig(RoundingOptions):
    """Options of `quantize.rotated`."""

    bits: int = option(4, "bits per weight", low=2, high=8, choices=(16,), unit="bits", search=(2, 3, 4, 6, 8))
    feedback: bool = option(True, "choose codes with GPTQ's feedback instead of the nearest", search=(True, False))
    damping: float = option(0.01, "added to diag C for the feedback, as a share of its mean", low=1e-6, high=1.0,
                            search=(0.01, 0.1))  # fmt: skip
    seed: int = option(0, "seed of the signs, mixed with the place's name", low=0)


def refuse(place: Place, config: RotatedConfig) -> str | None:
    """Why a place is left alone."""
    site = place.observed_site
    reason = gptq.refuse(place, config) if config.feedback else gridded.refuse(place, config)
    if reason is None and rotation_block(site.columns) < _LEAST_BLOCK:
        return f"no power of two of {_LEAST_BLOCK} or more divides its {site.columns} columns: they cannot be rotated"
    return reason


def wants(place: Place, config: RotatedConfig) -> StatisticKind | None:
    """The second moment of the site's input, for the feedback; without it, where rounding itself asks for one."""
    site = place.observed_site
    asked = config.feedback or config.clip == "output" or config.grid == "kmeans"
    return "moment" if asked and site.kind in ("linear", "conv") and site.groups == 1 else None


def forecast(place: Place, config: RotatedConfig) -> tuple[Site, ...]:
    """The site on its grid, with a sign per column."""
    return tuple(gridded.forecast(place, config, rotation=rotation_block(place.observed_site.columns)))


def draw_signs(place: Place, seed: int) -> Tensor:
    """Step 1: ±1 (n,), the same for the same name, seed and width on every machine."""
    return random_signs(place.observed_site.columns, zlib.crc32(f"{seed}:{place.name}".encode()))


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: RotatedConfig) -> Change:
    """Quantize the weight of the place's site in rotated coordinates."""
    weight = weights[f"{place.observed_site.path}.weight"].flatten(1)  # (m, n)
    block, signs = rotation_block(weight.shape[1]), draw_signs(place, config.seed).to(weight.device)
    moment: Moment | None = None
    notes: tuple[str, ...] = ()
    choose: gridded.Chooser = gridded.round_to_nearest
    if isinstance(statistic, Moment):
        moment = gridded.transform_moment(statistic, lambda x: rotate_columns(x, signs, block))
        if config.feedback:
            choose, damping = gptq.make_feedback_chooser(moment, config.damping)
            notes = (f"damping raised to {damping:g}",) if damping > config.damping else ()
    parts = {"signs": pack_codes(((signs + 1) / 2).to(torch.uint8)[None], 1)}
    target = rotate_columns(weight.float(), signs, block)
    return gridded.quantize_weight(place, weights, moment, config, choose, parts, notes, target, rotation=block)


METHOD = Method(
    name="quantize.rotated",
    kind="quantize",
    paper="Ashkboos et al. 2024, QuaRot, arXiv 2404.00456; Chee et al. 2023, QuIP, arXiv 2307.13304",
    idea="Turn the input coordinates by signs and Hadamard blocks, so that no weight sticks out of the grid.",
    config=RotatedConfig,
    refuse=refuse,
    wants=wants,
    without_data="codes are the nearest instead of chosen with feedback",
    forecast=forecast,
    solve=solve,
)

"""GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2023, arXiv 2210.17323): round column by column, let the rest make up.

Idea. After a column is rounded, the columns not yet rounded can still change, and the inputs that they see are
correlated with the one just damaged: move them to where the layer's output error is least.

Problem. For W (m, n) and C = E[x xᵀ] (n, n), minimise tr((W − Ŵ) C (W − Ŵ)ᵀ) with every ŵ on its grid.

Algorithm.
    1. grid from the unchanged W, per group of columns ("static groups")             s, z (m, n/group)
    2. permute columns so that diag(C) descends ("activation order")                 W (m, n), C (n, n)
    3. U = upper Cholesky factor of (C + d·mean(diag C)·I)⁻¹                         U (n, n)
    4. for column i:  q_i = nearest(w_i);  e = (w_i − ŵ_i) / U_ii                    e (m,)
                      W[:, i+1:] −= e ⊗ U[i, i+1:]
       (inside blocks of 128 columns at once; the columns behind a block are updated once per block)
    5. undo the permutation, pack

Cost O(m·n²) and n² numbers of memory. With fewer tokens than columns C is singular: damping d starts at 0.1 then, and
grows until the factorisation succeeds. Columns whose input never fires are set to zero. The expected error relative to
rounding is Σ U_ii⁻² / tr C, which the tests check. Fails where calibration tokens are unlike those met later.

Departs from the reference: ranges come from the unchanged weight (the reference, with groups smaller than its block,
uses weights that are stale inside the block), float64 factorisation, automatic damping, weights that are exactly zero
stay zero so that pruning survives. Convolutions are unfolded into patches; embeddings are refused, since their input is
an index and has no second moment.

By hand. W = [[0.7, 0.4]], C = [[2, 1], [1, 2]], no damping, grid of step 0.5 (codes … 0, 0.5, 1 …), order as given:
    C⁻¹ = [[2, −1], [−1, 2]]/3, U = [[√(2/3), −1/√6], [0, 1/√2]]
    column 0: 0.7 → 0.5, e = 0.2/√(2/3) = 0.244949; w_1 = 0.4 − 0.244949·(−0.408248) = 0.5
    column 1: 0.5 → 0.5
    Ŵ = [[0.5, 0.5]] with error tr = 2·0.04 − 2·0.02 + 2·0.01 = 0.06. Plain rounding also gives [0.5, 0.5] here; with
    W = [[0.7, 0.2]] it gives [0.5, 0] at error 0.24 while GPTQ moves 0.2 to 0.3 and gives [0.5, 0.5] at 0.14.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimodal.core import Change, Place
from trimodal.errors import TrimodalError
from trimodal.maths.cholesky import inverse_root, revive
from trimodal.maths.grid import Grid, fit_grid
from trimodal.methods.method import Method, Weights
from trimodal.methods.options import option
from trimodal.methods.quantize import gridded
from trimodal.methods.quantize.gridded import Rounding
from trimodal.statistics import Moment, Statistic, StatisticKind

_BLOCK = 128


@dataclass(frozen=True)
class GptqConfig(Rounding):
    """Options of `quantize.gptq`."""

    bits: int = option(4, "bits per weight", low=2, high=8, unit="bits", search=(2, 3, 4, 6, 8))
    damping: float = option(0.01, "added to diag C, as a share of its mean", low=1e-6, high=1.0, search=(0.01, 0.1))
    activation_order: bool = option(True, "round the columns with the largest inputs first", search=(True,))


def refuse(place: Place, config: GptqConfig) -> str | None:
    """Why a place is left alone."""
    site = place.observed
    if site.kind == "embedding":
        return "an embedding's input is an index, which has no second moment; quantize.rtn works on it"
    if site.groups > 1:
        return "a grouped convolution has no single second moment; quantize.rtn works on it"
    return gridded.refuse(place, config)


def wants(place: Place, config: GptqConfig) -> StatisticKind | None:
    """The second moment of the site's input."""
    return "moment"


def feedback(weight: Tensor, root: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Steps 4: codes uint8 (m, n) of `weight` (m, n), given U = `root` (n, n), scale and zero-point (m or 1, n)."""
    # Transposed, so that a column of W is contiguous: the loop reads and writes whole columns.
    w, kept = weight.T.clone(memory_format=torch.contiguous_format), (weight != 0).T
    scale, zero = scale.T.expand_as(w), zero.T.expand_as(w)
    codes = torch.empty_like(w)
    for start in range(0, len(w), _BLOCK):
        stop = min(start + _BLOCK, len(w))
        block, errors = w[start:stop], torch.empty_like(w[start:stop])
        inner = root[start:stop, start:stop]
        for i in range(stop - start):
            s, z = scale[start + i], zero[start + i]
            code = (block[i] / s).round_().add_(z).clamp_(0, 2**bits - 1)
            code = torch.where(kept[start + i], code, z)
            codes[start + i] = code
            errors[i] = (block[i] - (code - z) * s) / inner[i, i]
            block[i:].addr_(inner[i, i:], errors[i], alpha=-1)
        w[stop:].addmm_(root[start:stop, stop:].T, errors, alpha=-1)
    return codes.T.to(torch.uint8)


def quantize(weight: Tensor, moment: Moment, grid: Grid, config: GptqConfig) -> tuple[Tensor, float]:
    """Codes uint8 (m, n) of `weight` (m, n) on `grid`, and the damping that was needed."""
    c, dead = revive(moment.second)
    w = weight.masked_fill(dead, 0.0)
    order = torch.arange(len(c), device=w.device)
    if config.activation_order:
        order = torch.sort(c.diagonal(), descending=True, stable=True).indices
    root, damping = inverse_root(c[order][:, order], config.damping, moment.tokens)
    scale, zero = grid.spread(grid.scales())[:, order], grid.spread(grid.zeros())[:, order]
    codes = torch.empty(w.shape, dtype=torch.uint8, device=w.device)
    codes[:, order] = feedback(w[:, order], root.float(), scale, zero, config.bits)
    return codes, damping


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: GptqConfig) -> Change:
    """Quantize the weight of the place's site."""
    if not isinstance(statistic, Moment):
        raise TrimodalError(f"quantize.gptq at {place.name} was given no second moment")
    site = place.observed
    weight = weights[f"{site.path}.weight"].flatten(1)  # (m, n)
    grid = fit_grid(weight, config.bits, config.group, config.symmetric, config.clip)
    codes, damping = quantize(weight, statistic, grid, config)
    notes = (f"damping raised to {damping:g}",) if damping > config.damping else ()
    return Change({site.path: gridded.treatment(site, codes, grid)}, notes=notes)


METHOD = Method(
    name="quantize.gptq",
    kind="quantize",
    paper="Frantar, Ashkboos, Hoefler, Alistarh 2023, GPTQ, arXiv 2210.17323",
    idea="Round column by column and let the columns not yet rounded make up for the error.",
    config=GptqConfig,
    refuse=refuse,
    wants=wants,
    forecast=gridded.forecast,
    solve=solve,
)

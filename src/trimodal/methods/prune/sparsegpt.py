"""SparseGPT (Frantar, Alistarh 2023, arXiv 2301.00774): remove column by column, let the rest make up.

Idea. GPTQ's recursion with zero as the only other level: a removed weight is an error like any rounding error, and the
columns to its right can still make up for it. With `bits` the survivors are rounded in the same recursion, so that pruning
and quantization make up for each other.

Problem. For W (m, n) and C = E[x xᵀ] (n, n), minimise tr((W − Ŵ) C (W − Ŵ)ᵀ) with a given number of zeros in Ŵ, and
with `bits` every other ŵ on its grid.

Algorithm.
    1. columns in their own order; with `bits` in descending order of diag C, unless N:M needs its runs together;
       U = upper Cholesky factor of (C + d·mean(diag C)·I)⁻¹                                   U (n, n)
    2. for every block of 128 columns: scores w²_ij / U_jj², as the weights stand now          (m, 128)
       the smallest go, as many as bring the total to its share; or in every run of `of` columns all but `kept`
    3. for column j of the block: ŵ_j = w_j where kept (with `bits` its nearest number), else 0;
       e = (w_j − ŵ_j) / U_jj;  W[:, j+1:] −= e ⊗ U[j, j+1:]                                   e (m,)

Cost O(m·n²) and n² numbers. Fails as Wanda does at high sparsity, later; with small layers the exact refit of `prune.wanda`
is better (this recursion never returns to a column), with more than some 1,500 inputs this is much cheaper. Departs from
the reference: counts are exact (its `<=` threshold removes ties as well), with `bits` the columns with the largest inputs
come first as in GPTQ, zero-points are whole so that a pruned weight stays zero on the grid, and weights already zero go
first.

By hand. W = [[1, 0.6]], C = [[1, 0.8], [0.8, 4]], no damping, half removed: C⁻¹ = [[4, −0.8], [−0.8, 1]]/3.36,
in the columns' own order U = [[1.091089, −0.218218], [0, 0.5]]; scores 1/1.190476 = 0.84 and 0.36/0.25 = 1.44: column 0
goes, e = 1/1.091089 = 0.916515, w_1 = 0.6 + 0.916515·0.218218 = 0.8. Ŵ = [[0, 0.8]], the exact optimum on that mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trimodal.core import Change, Place, Site, Treatment
from trimodal.core.storage import group_size
from trimodal.errors import TrimodalError
from trimodal.maths.cholesky import inverse_root, revive_dead_inputs
from trimodal.maths.grid import Grid, fit_grid
from trimodal.maths.masks import keep_n_of_m, kept_count
from trimodal.methods.method import Method, Weights
from trimodal.methods.options import option
from trimodal.methods.prune import masked
from trimodal.statistics import Moment, Statistic, StatisticKind

_BLOCK = 128


@dataclass(frozen=True)
class SparseGptConfig:
    """Options of `prune.sparsegpt`."""

    sparsity: float = option(0.5, "fraction of the weights removed", low=0.0, high=1.0, search=(0.3, 0.5, 0.7))
    kept: int | None = option(None, "with `of`: weights kept in every run of `of` columns; replaces sparsity", low=1)
    of: int | None = option(None, "with `kept`: length of a run of columns", low=2)
    damping: float = option(0.01, "added to diag C, as a share of its mean", low=1e-6, high=1.0)
    bits: int | None = option(
        None, "also round what stays, in the same recursion, to so many bits; stored as quantized", low=2, high=8,
        unit="bits", search=(None, 4),
    )  # fmt: skip
    group: int | str = option("channel", "with `bits`: columns that share a scale", low=8, choices=("channel", "tensor"),
                              unit="columns")  # fmt: skip


def refuse(place: Place, config: SparseGptConfig) -> str | None:
    """Why a place is left alone."""
    if (config.kept is None) != (config.of is None):
        return "kept and of must be given together"
    if config.kept is not None and config.of is not None and config.kept > config.of:
        return f"kept {config.kept} is more than of {config.of}"
    if config.of is not None and _BLOCK % config.of:
        return f"runs of {config.of} columns do not fit into blocks of {_BLOCK}"
    if place.observed_site.kind == "embedding" or place.observed_site.is_grouped:
        return "its inputs have no second moment; prune.magnitude works on it"
    if config.bits is not None and place.observed_site.stored == "sparse":
        return "already sparse; prune it without bits, and quantize it then"
    return masked.refuse_sparsity(place, _count_kept(place.observed_site, config), config.of is not None)


def wants(place: Place, config: SparseGptConfig) -> StatisticKind | None:
    """The second moment of the site's input."""
    return "moment"


def forecast(place: Place, config: SparseGptConfig) -> Sequence[Site]:
    """The site with a mask and its kept weights, or on a grid."""
    site = place.observed_site
    if config.bits is not None:
        return (site.store_as("quantized", {**_grid_options(site, config), "exponent": 0}),)
    return masked.forecast_sparse_site(site, _count_kept(site, config))


def _count_kept(site: Site, config: SparseGptConfig) -> int:
    if config.kept is None or config.of is None:
        return masked.count_kept_overall(site, config.sparsity)
    return masked.count_kept_in_runs(site, config.kept, config.of)


def prune_with_feedback(
    weight: Tensor, root: Tensor, order: Tensor, config: SparseGptConfig, grid: Grid | None = None,
    within: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps 2 and 3 for `weight` (m, n): Ŵ, the mask of what stays, and with a grid the codes.

    What lies outside the mask `within` (m, n) goes first, and only what is still
    missing goes of the others. U = `root` (n, n) is that of the columns taken in `order` (n,).
    """
    w = weight[:, order].T.clone(memory_format=torch.contiguous_format)  # a column of W is contiguous
    numbers, back = order.tolist(), torch.argsort(order)
    rows, columns = weight.shape
    mask, found, codes = torch.ones_like(w, dtype=torch.bool), torch.empty_like(w), torch.zeros_like(w)
    nearest = None if grid is None else grid.make_rounder()
    removed, target = 0, rows * columns - kept_count(rows * columns, config.sparsity)
    old = None if within is None else within[:, order].T  # (n, m)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        block, errors, inner = w[start:stop], torch.empty_like(w[start:stop]), root[start:stop, start:stop]
        diagonal = inner.diagonal()
        if config.of is None:
            scores = block.square() / diagonal[:, None].square()
            going = rows * stop - kept_count(rows * stop, config.sparsity) - removed
            if old is not None:  # the gone ones of every block have to fit into the total
                scores = scores.masked_fill(~old[start:stop], -1.0)
                here, later = int((~old[start:stop]).sum()), int((~old[stop:]).sum())
                going = max(here, min(going, target - removed - later))
            gone = torch.sort(scores.flatten(), stable=True).indices[:going]
            mask[start:stop].view(-1)[gone] = False
            removed += going
        for j in range(stop - start):
            if config.of is not None and config.kept is not None and j % config.of == 0:
                run = slice(j, j + config.of)
                scores = block[run].square() / diagonal[run, None].square()
                mask[start:stop][run] = keep_n_of_m(scores.T.contiguous(), config.kept, config.of).T
            kept = mask[start + j]
            value = block[j].masked_fill(~kept, 0.0)
            if nearest is not None:
                codes[start + j], value = nearest(value, numbers[start + j])
            found[start + j] = value
            errors[j] = (block[j] - value) / diagonal[j]
            block[j + 1 :].addr_(inner[j, j + 1 :], errors[j], alpha=-1)
        w[stop:].addmm_(root[start:stop, stop:].T, errors, alpha=-1)
    return found[back].T, mask[back].T, codes[back].T


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: SparseGptConfig) -> Change:
    """Remove weights of the place's site.

    Raises:
        TrimodalError: it was not given the statistic that `wants` asks for.
    """
    if not isinstance(statistic, Moment):
        raise TrimodalError(f"prune.sparsegpt at {place.name} was given no second moment")
    site = place.observed_site
    c, _ = revive_dead_inputs(statistic.second)
    weight = weights[f"{site.path}.weight"].flatten(1)  # (m, n)
    order = torch.arange(len(c), device=c.device)
    if config.bits is not None and config.of is None:
        order = torch.sort(c.diagonal(), descending=True, stable=True).indices
    root, damping = inverse_root(c[order][:, order], config.damping, statistic.tokens)
    notes = (f"damping raised to {damping:g}",) if damping > config.damping else ()
    grid = None if config.bits is None else fit_grid(weight, config.bits, config.group, clip="mse")
    found, mask, codes = prune_with_feedback(weight, root.float(), order, config, grid, masked.mask_of(site, weights))
    if grid is None:
        return replace(masked.make_sparse_change(site, found, mask), notes=notes)
    options = {**_grid_options(site, config), **grid.storage_options()}
    share = 1 - float(mask.float().mean())
    notes = (*notes, f"{share:.4f} of the codes stand for zero; they take their bits unless the file is entropy-coded")
    return Change({site.path: Treatment("quantized", options, grid.storage_tensors(grid.as_codes(codes)))}, notes=notes)


def _grid_options(site: Site, config: SparseGptConfig) -> dict[str, Any]:
    return {
        "shape": list(site.shape), "dtype": site.dtype, "bits": config.bits, "zero": None, "positive": True,
        "group": group_size(config.group, site.columns), "shared": config.group == "tensor",
    }  # fmt: skip


METHOD = Method(
    name="prune.sparsegpt",
    kind="prune",
    paper="Frantar, Alistarh 2023, SparseGPT, arXiv 2301.00774",
    idea="Remove column by column and let the columns to the right make up; may round what stays in the same go.",
    config=SparseGptConfig,
    refuse=refuse,
    wants=wants,
    forecast=forecast,
    solve=solve,
)

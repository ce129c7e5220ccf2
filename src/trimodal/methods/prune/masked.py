"""What all methods that remove single weights say alike about a place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from trimodal.core import Change, Place, Site, Treatment
from trimodal.errors import TrimodalError
from trimodal.maths.cholesky import safe_damping
from trimodal.maths.masks import is_refit_exact, kept_count, refit_weights
from trimodal.maths.packing import pack_codes
from trimodal.methods.method import Weights, needs_dense_or_sparse
from trimodal.methods.options import option
from trimodal.methods.scope import Scope
from trimodal.statistics import GroupedMoment, Moment, Statistic, StatisticKind

MaskChooser = Callable[[Tensor, Tensor, Any, Tensor | None], Tensor]


@dataclass(frozen=True)
class WeightPruningOptions:
    """Options that every method that removes single weights has."""

    sparsity: float = option(0.5, "fraction of the weights removed", low=0.0, high=1.0, search=(0.3, 0.5, 0.7))
    refit: bool = option(True, "set the kept weights to their least-squares values; needs calibration data")
    damping: float = option(1e-3, "added to diag C in the refit, as a share of its mean", low=1e-9, high=1.0)


@dataclass(frozen=True)
class InputPruningOptions(WeightPruningOptions):
    """Options of methods that weigh every weight by its input: what is ranked together, and n of m."""

    scope: Scope = option("layer", "what is ranked together: each layer by itself, a tower's, or all of the step",
                          choices=("layer", "tower", "global"), search=("layer", "tower", "global"))  # fmt: skip
    kept: int | None = option(None, "with `of`: weights kept in every run of `of` columns; replaces sparsity", low=1)
    of: int | None = option(None, "with `kept`: length of a run of columns", low=2)

    @property
    def statistic(self) -> StatisticKind:
        """The second moment for the refit, else the column norms."""
        return "moment" if self.refit else "norm"

    def count_kept(self, site: Site, by_sparsity: int) -> int:
        """Weights that stay in the whole site: those of n of m, else `by_sparsity`."""
        if self.kept is None or self.of is None:
            return by_sparsity
        return count_kept_in_runs(site, self.kept, self.of)


def refuse_inputs(place: Place, config: InputPruningOptions, kept: int) -> str | None:
    """Why a place is left alone where `kept` weights, chosen by their inputs, are to stay."""
    if (config.kept is None) != (config.of is None):
        return "kept and of must be given together"
    if config.kept is not None and config.scope != "layer":
        return f"kept and of say what every layer loses; nothing is left for scope: {config.scope} to choose"
    if config.kept is not None and config.of is not None and config.kept > config.of:
        return f"kept {config.kept} is more than of {config.of}"
    if place.observed_site.kind == "embedding" or place.observed_site.is_grouped:
        return "its inputs have no norm per column; prune.magnitude works on it"
    return refuse_sparsity(place, kept, config.of is not None)


def refuse_sparsity(place: Place, kept: int, runs: bool = False) -> str | None:
    """Why a place is left alone where `kept` weights are to stay; `runs`: so many in every run of columns."""
    site = place.observed_site
    if runs and kept == site.rows * site.columns:
        return f"with so many kept in every run its {site.columns} columns lose nothing"
    if site.stored == "sparse" and runs:
        return "already sparse, and what is left may stand unevenly in its runs of columns; give a sparsity"
    if site.stored == "sparse" and kept > site.kept_weights:
        return f"already sparse: it has {site.kept_weights:,} weights left, and {kept:,} were to stay"
    return needs_dense_or_sparse(site)


def output_energies(place: Place, weights: Weights, statistic: Statistic | None) -> Tensor | None:
    """Every remaining weight's part in the energy of the layer's output, were its inputs not correlated: float64 (count,)."""
    if statistic is None or isinstance(statistic, GroupedMoment):
        return None
    energies = weights[f"{place.observed_site.path}.weight"].flatten(1).square() * statistic.square.clamp(min=0)
    mask = mask_of(place.observed_site, weights)
    left = (energies if mask is None else energies[mask]).flatten().double()
    return left / left.sum() if left.any() else left


def prune_by_inputs(
    name: str, place: Place, weights: Weights, statistic: Statistic | None, config: InputPruningOptions, choose_mask: MaskChooser
) -> Change:
    """Keep of the place's site what `choose_mask` of the method `name` chooses, refitted if the options say so.

    Raises:
        TrimodalError: no statistic of the input was given.
    """
    if statistic is None or isinstance(statistic, GroupedMoment):
        raise TrimodalError(f"{name} at {place.name} was given no statistic of its input")
    site = place.observed_site
    weight = weights[f"{site.path}.weight"].flatten(1)  # (m, n)
    notes: tuple[str, ...] = ()
    mask = choose_mask(weight, statistic.square, config, mask_of(site, weights))
    if config.refit and isinstance(statistic, Moment):
        weight, notes = refit_kept_weights(weight, mask, statistic, config.damping)
    return replace(make_sparse_change(site, weight, mask), notes=notes)


def mask_of(site: Site, weights: Weights) -> Tensor | None:
    """The mask (rows, columns) of what an earlier step left of the site's weight; None where all is there."""
    return weights.get(f"{site.path}.mask")


def forecast_sparse_site(site: Site, kept: int) -> Sequence[Site]:
    """`site` with `kept` weights and one bit per weight."""
    return (site.store_as("sparse", _storage_options(site, kept)),)


def count_kept_per_row(site: Site, sparsity: float) -> int:
    """Weights that stay in the whole site when every row loses the fraction `sparsity`."""
    return site.rows * kept_count(site.columns, sparsity)


def count_kept_in_runs(site: Site, kept: int, of: int) -> int:
    """Weights that stay when every run of `of` columns keeps `kept`; a last, shorter run at most as many."""
    runs, rest = divmod(site.columns, of)
    return site.rows * (runs * kept + min(rest, kept))


def count_kept_overall(site: Site, sparsity: float) -> int:
    """Weights that stay when the site as a whole loses the fraction `sparsity`."""
    return kept_count(prod(site.shape), sparsity)


def refit_kept_weights(
    weight: Tensor, mask: Tensor, moment: Moment, damping: float, notes: tuple[str, ...] = ()
) -> tuple[Tensor, tuple[str, ...]]:
    """`weight` (rows, columns) with its kept values set to least squares, and `notes` with how, where that is not exact."""
    found = refit_weights(weight, mask, moment.second, safe_damping(damping, moment.tokens, weight.shape[1]))
    if not is_refit_exact(mask):
        notes = (*notes, "too large for the exact refit: conjugate gradients, 40 steps at most")
    return found, notes


def make_sparse_change(site: Site, weight: Tensor, mask: Tensor) -> Change:
    """Keep `weight` (rows, columns) where `mask` is True, in the site's own shape and type."""
    values = weight.to(getattr(torch, site.dtype))[mask].contiguous()
    tensors = {"values": values, "mask": pack_codes(mask.to(torch.uint8), 1)}
    return Change({site.path: Treatment("sparse", _storage_options(site, len(values)), tensors)})


def _storage_options(site: Site, kept: int) -> dict[str, Any]:
    return {"shape": list(site.shape), "dtype": site.dtype, "kept": kept}

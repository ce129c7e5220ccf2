"""What all quantizers say alike about a place: when they refuse, on which grid, what will be stored, what repairs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trimodal.core import Change, Place, Site, Treatment
from trimodal.core.storage import group_size
from trimodal.errors import TrimodalError
from trimodal.layers import CodedWeight
from trimodal.layers.stored import Levels
from trimodal.maths.codebook import TABLES, Codebook, Per, fit_codebook, fit_to_table
from trimodal.maths.error import bias_correction
from trimodal.maths.grid import UNIFORM, Clip, fit_grid
from trimodal.maths.lowrank import fit_correction
from trimodal.maths.packing import pack_codes
from trimodal.methods.method import Weights, needs_dense, needs_dense_or_sparse
from trimodal.methods.options import option
from trimodal.statistics import Moment

GridName = Literal["positive", "symmetric", "asymmetric", "nf", "sf", "fp", "pot", "log", "kmeans"]
GROUP_HELP = "columns that share a scale: a number, `channel` (a scale per row) or `tensor` (one in all)"
GRID_HELP = (
    "the numbers a weight may take: `positive` (evenly spaced, scale above 0, as integer runtimes have it), `symmetric` "
    "(evenly spaced, signed scale), `asymmetric` (with a zero-point), the "
    "tables `nf` (normal float), `sf` (Student float), `fp` (small float), `pot`, `log` (powers of two, of √2), or `kmeans` (learned)"
)


@dataclass(frozen=True)
class RoundingOptions:
    """Options that every quantizer onto a grid has."""

    bits: int = option(8, "bits per weight", low=2, high=8, choices=(16,), unit="bits", search=(2, 3, 4, 6, 8))
    group: int | str = option(
        "channel", GROUP_HELP, low=8, choices=("channel", "tensor"), unit="columns", search=("channel", 128, 64, 32)
    )
    grid: GridName = option(
        "positive", GRID_HELP, choices=(*UNIFORM, *TABLES), search=("positive", "symmetric", "asymmetric", "nf")
    )
    clip: Clip = option(
        "mse", "range of the grid: `max` holds every weight, `mse` where Σ|w − ŵ|^2.5 is least, `output` where the "
        "layer's output error is least (needs data)", choices=("max", "mse", "output"), search=("max", "mse", "output"),
    )  # fmt: skip


@dataclass(frozen=True)
class SharedCodebookOptions(RoundingOptions):
    """Options of the quantizers that can round onto a table which all layers of a tower use; see `tower_codebook.py`."""

    group: int | str = option(
        "channel", f"{GROUP_HELP}; with k-means and without a `table` of the tower, that share learned numbers; `tower`: all "
        "layers of a tower share them, without any scale", low=8, choices=("channel", "tensor", "tower"), unit="columns",
        search=("channel", 128, 64, 32),
    )  # fmt: skip
    table: Literal["group", "tower", "borrowed"] = option(
        "group", "with k-means, what has a table of learned numbers: each `group`, or the `tower`, all of whose layers use "
        "one beside a scale per group (a plan says `borrowed` of all but the first of them)",
        choices=("group", "tower", "borrowed"),
    )  # fmt: skip


@dataclass(frozen=True)
class RepairOptions:
    """Options that win back some of what rounding lost."""

    outliers: float = option(0.0, "share of the weights kept in float16, the most sensitive first", low=0.0, high=0.1,
                             search=(0.0, 0.005))  # fmt: skip
    rank: int = option(0, "rank of a float16 correction of the residual", low=0, search=(0, 8))
    bias: bool = option(False, "move the error's mean into the bias where there is one; needs data")


_LEVELS = ".levels"
Parts = Mapping[str, Tensor]
Chooser = Callable[[Tensor, Levels, Tensor | None], tuple[Tensor, Tensor]]
"""(weight, levels, exact) -> codes, and the weight as it stood when each column was reached."""


def refuse(place: Place, config: RoundingOptions, masks: bool = False) -> str | None:
    """Why a place is left alone. `masks`: the method keeps the mask of a pruned weight."""
    site = place.observed_site
    if config.grid in TABLES and config.bits > 8:
        return f"the table '{config.grid}' has no {config.bits}-bit form; 8 bits at most"
    if uses_shared_codebook(config) and config.grid != "kmeans":
        return f"a tower can only share learned numbers (grid: kmeans), not the grid '{config.grid}'"
    rank = getattr(config, "rank", 0)
    if rank and rank * (site.rows + site.columns) * 2 >= site.rows * site.columns:
        return f"a correction of rank {rank} would be larger than half of its {site.rows} × {site.columns} weight"
    if masks and site.stored == "sparse":
        filling = [name for name in ("outliers", "rank") if getattr(config, name, 0)]
        if filling:
            return f"it is pruned, and {filling[0]} would not leave its zeros alone"
        return needs_dense_or_sparse(site)
    return needs_dense(site)


def uses_shared_codebook(config: Any) -> bool:
    """Whether all layers of a tower are to use one table."""
    return getattr(config, "table", "group") != "group" or getattr(config, "group", "") == "tower"


def shared_levels_key(path: str) -> str:
    """What a tower's table is called among the weights that a method is given, when the layer at `path` stores it."""
    return path + _LEVELS


def forecast(place: Place, config: RoundingOptions, **parts: Any) -> Sequence[Site]:
    """The site with its weight on a grid."""
    site = place.observed_site
    kind, options = _describe_storage(site, config)
    return (site.store_as(kind, {**options, **parts}, "k-means" if config.grid == "kmeans" else config.grid),)


def fit_levels(
    weight: Tensor, config: RoundingOptions, moment: Moment | None, kept: Tensor | None = None, table: Tensor | None = None
) -> Levels:
    """The numbers that `weight` (m, n) may take, chosen for it as `config` says; with the mask `kept` (m, n) the others
    are zero and need none. `table` (2^bits,) is the tower's, if there is one."""
    if config.grid == "positive" or config.grid == "symmetric" or config.grid == "asymmetric":
        second = None if moment is None else moment.second
        return fit_grid(weight, config.bits, config.group, config.grid, config.clip, second)
    importance = None if moment is None else moment.square
    if table is not None:
        per: Per = "borrowed" if isinstance(config, SharedCodebookOptions) and config.table == "borrowed" else "tower"
        return fit_to_table(weight, table, config.bits, config.group, per, config.clip, importance, kept)
    return fit_codebook(weight, config.bits, config.group, config.grid, config.clip, importance, kept)


def round_to_nearest(weight: Tensor, levels: Levels, exact: Tensor | None) -> tuple[Tensor, Tensor]:
    """Every entry of `weight` (rows, columns) for itself; `exact` ones, a boolean mask (rows, columns), are kept elsewhere."""
    return levels.encode(weight if exact is None else weight.masked_fill(exact, 0.0)), weight


def transform_moment(moment: Moment, change: Callable[[Tensor], Tensor]) -> Moment:
    """The moment of x A instead of x (columns,), where `change` takes rows x (..., n) to x A: C becomes Aᵀ C A."""
    result = Moment(moment.columns, moment.tokens)
    result.second = change(change(moment.second).T)
    result.mean = change(moment.mean)
    if moment.cross is not None:
        result.cross = change(change(moment.cross).T).T
    return result


def quantize_weight(
    place: Place,
    weights: Weights,
    moment: Moment | None,
    config: RoundingOptions,
    choose: Chooser,
    parts: Parts | None = None,
    notes: tuple[str, ...] = (),
    target: Tensor | None = None,
    **options: Any,
) -> Change:
    """The place's weight on the grid that `config` asks for, with the repairs that it asks for.

    Args:
        place: one site.
        weights: of the site, and the table of its tower if it shares one.
        moment: of the site's input, in the coordinates of `target`; None without data.
        config: rounding, and repairs if it has them.
        choose: which code each weight gets.
        parts: further tensors to store, with their storage `options`: transforms that decoding undoes.
        notes: for the record.
        target: the matrix (m, n) to quantize where it is not the weight itself (transformed, corrected).
    """
    site = place.observed_site
    weight = weights[f"{site.path}.weight"].flatten(1)  # (m, n)
    target = weight if target is None else target
    kept = weights.get(f"{site.path}.mask")
    if kept is not None:
        target = target.masked_fill(~kept, 0.0)
    exact = _select_outliers(target, moment, getattr(config, "outliers", 0.0))
    lender, table = _find_shared_table(place, weights, config)
    levels = fit_levels(target if exact is None else target.masked_fill(exact, 0.0), config, moment, kept, table)
    codes, reached = choose(target, levels, exact)
    kind, described = _describe_storage(site, config)
    stored = {**levels.storage_tensors(codes if kept is None else codes[kept][None]), **(parts or {})}
    if kept is not None:
        stored["mask"] = pack_codes(kept.to(torch.uint8), 1)
    described = {**described, **levels.storage_options(), **options}
    if exact is not None:
        places = exact.flatten().nonzero()[:, 0]
        stored["outliers"], stored["places"] = reached.flatten()[places].half(), places.int()
        described["outliers"] = len(places)
    lent = {"levels": levels.levels} if lender and isinstance(levels, Codebook) else {}
    rank, repaired = getattr(config, "rank", 0), getattr(config, "bias", False) and moment is not None
    if rank or repaired:
        decoded = CodedWeight(kind, {**described, "dtype": "float32"}, {**stored, **lent})().flatten(1)
    if rank:
        described["rank"] = rank
        left, right = (factor.half() for factor in fit_correction(weight - decoded, None if moment is None else moment.second, rank))
        stored["left"], stored["right"] = left, right
        decoded = decoded + left.float() @ right.float()
    bias = weights.get(f"{site.path}.bias") if getattr(config, "bias", False) else None
    if bias is not None and moment is not None:
        corrected = bias + bias_correction(weight, decoded, moment.mean)
        bias = corrected.to(getattr(torch, site.dtype))
    return Change({site.path: Treatment(kind, described, stored, bias, lender)}, notes=notes)


def _find_shared_table(place: Place, weights: Weights, config: RoundingOptions) -> tuple[str, Tensor | None]:
    """The path of the layer whose table is borrowed, empty where none is, and the numbers of the table that is shared."""
    if not uses_shared_codebook(config):
        return "", None
    found = next((name for name in weights if name.endswith(_LEVELS)), None)
    if found is None:
        raise TrimodalError(f"{place.name} was given no table of its tower")
    owner = found.removesuffix(_LEVELS)
    return "" if owner == place.observed_site.path else owner, weights[found]


def _describe_storage(site: Site, config: RoundingOptions) -> tuple[str, dict[str, Any]]:
    """Kind and options of the storage, as far as they follow from the config; the exponent is found with the weights."""
    group = group_size(config.group, site.columns)
    options: dict[str, Any] = {
        "shape": list(site.shape), "dtype": site.dtype, "bits": config.bits, "group": group, "exponent": 0,
    }  # fmt: skip
    if site.stored == "sparse":
        options["kept"] = site.kept_weights
    if getattr(config, "outliers", 0.0):
        options["outliers"] = _count_outliers(site.rows * site.columns, getattr(config, "outliers", 0.0))
    if getattr(config, "rank", 0):
        options["rank"] = getattr(config, "rank", 0)
    if config.grid in UNIFORM:
        wide = "int32" if config.bits > 8 else "uint8"
        zero, positive = wide if config.grid == "asymmetric" else None, {"positive": True} if config.grid == "positive" else {}
        return "quantized", {**options, "zero": zero, "shared": config.group == "tensor", **positive}
    learned = config.grid == "kmeans"
    if isinstance(config, SharedCodebookOptions) and uses_shared_codebook(config):
        here = "tower" if config.table == "group" else config.table
        return "codebook", {**options, "tables": here, "scaled": config.group != "tower"}
    per = "group" if group < site.columns else "channel"
    tables = ("tensor" if config.group == "tensor" else per) if learned else "tensor"
    return "codebook", {**options, "tables": tables, "scaled": not learned}


def _count_outliers(weights: int, share: float) -> int:
    return max(1, round(weights * share))


def _select_outliers(weight: Tensor, moment: Moment | None, share: float) -> Tensor | None:
    """Mask (m, n) of the `share` of weights whose loss would hurt most: w²·C_jj, or w² without data."""
    if not share:
        return None
    worth = weight.square() if moment is None else weight.square() * moment.square
    kept = worth.flatten().topk(_count_outliers(weight.numel(), share)).indices
    return torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device).index_fill(0, kept, True).view_as(weight)

"""Hidden width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trimodal.core import Change, Cut, Place, Site
from trimodal.errors import TrimodalError
from trimodal.maths.error import quadratic
from trimodal.methods.method import Method, Mix
from trimodal.methods.options import option
from trimodal.methods.prune.structured import kept_units
from trimodal.models.blocks import split
from trimodal.models.model import Batch, Model
from trimodal.models.watching import offset_of
from trimodal.statistics import Moment, StatisticKind, rows_by_modality

Score = Literal["energy", "activation", "magnitude"]


@dataclass(frozen=True)
class WidthConfig:
    """Options of `prune.width`."""

    sparsity: float = option(
        0.25, "fraction of the stream's dimensions removed, rounded", low=0.0, high=1.0, search=(0.125, 0.25, 0.5)
    )
    multiple: int = option(8, "the dimensions that stay are rounded up to a multiple of this", low=2, high=1024)
    score: Score = option(
        "energy", "what a dimension is worth: what it adds to the layers that read it, how large norms make it, or the "
        "weights that hang on it", choices=("energy", "activation", "magnitude"), search=("energy", "activation"),
    )  # fmt: skip


@dataclass
class Reading:
    """One input that layers take from the stream: the layers, and by modality the moment of it."""

    sites: list[Site] = field(default_factory=list)
    moments: dict[str, Moment] = field(default_factory=dict)


def refuse(place: Place, config: WidthConfig) -> str | None:
    """Why a stream is left alone."""
    for site in place.sites:
        if site.stored != "dense":
            return f"{site.name} is already {site.stored}; prune before that"
        if site.tied and not site.read_again:
            return f"{site.name} shares its weight with {site.tied[0]}; prune before that"
    units = width(place)
    if config.sparsity > 0 and staying(units, config) == units:
        return f"{config.sparsity:g} of its {units} dimensions is none, as a multiple of {config.multiple} stays"
    return None


def staying(units: int, config: WidthConfig) -> int:
    """How many of `units` dimensions stay."""
    least = kept_units(units, config.sparsity)
    return units if config.sparsity == 0 else min(units, -(-least // config.multiple) * config.multiple)


def width(place: Place) -> int:
    """How many dimensions the stream has."""
    axis = place.observed.input_axis
    if place.label is None or axis is None:
        raise TrimodalError(f"{place.name} is no stream")
    return axis.units_of(place.label)


def wants(place: Place, config: WidthConfig) -> StatisticKind | None:
    """Data, unless sizes alone decide."""
    return None if config.score == "magnitude" else "moment"


def forecast(place: Place, config: WidthConfig) -> Sequence[Site]:
    """All layers along the stream, with fewer dimensions."""
    kept = range(staying(width(place), config))
    return tuple(site.cut(place.label or "", kept) for site in place.sites)


def magnitudes(weights: Sequence[tuple[Tensor, int]], units: int) -> Tensor:
    """Per dimension the squared norm of all that hangs on it, of each of `weights` along the dimension beside it: (n,)."""
    total = torch.zeros(units, dtype=torch.float64)
    for weight, dim in weights:
        total += weight.double().movedim(dim, 0).flatten(1).square().sum(1).cpu() if weight.dim() > 1 else (
            weight.double().square().cpu()
        )
    return total


def energies(weight: Tensor, square: Tensor) -> Tensor:
    """What every dimension adds to E‖W x‖² by itself, for W (m, n) and E[x_i²] (n,): (n,)."""
    return weight.double().square().sum(0) * square.double()


def survey(model: Model, place: Place, batches: Sequence[Batch], mix: Mix, config: WidthConfig) -> Change:
    """Choose the dimensions that stay, and scale the norms that take a mean over all of them."""
    units = width(place)
    readings = observe(model, place, batches)
    if not readings and wants(place, config) is not None:
        raise TrimodalError(
            f"prune.width at {place.name}: no calibration sample ran through it; give data that uses the {place.tower} tower"
        )
    worth = _SCORES[config.score](model, place, readings, mix)
    order = torch.sort(worth, descending=True, stable=True).indices
    kept = tuple(sorted(order[: staying(units, config)].tolist()))
    tensors = rescaled(model, place, kept)
    return Change(
        cut=Cut(place.label or "", kept, tensors=tensors),
        error=errors(model, readings, kept),
        notes=(f"kept {len(kept)} of {units} dimensions",),
    )


def observe(model: Model, place: Place, batches: Sequence[Batch]) -> list[Reading]:
    """What the layers along the stream read, with the moments of it; layers that are given the very same tensor make one
    reading. Layers that never ran are missing."""
    found: dict[str, Reading] = {}
    leader: dict[str, str] = {}
    given: dict[str, Tensor] = {}
    codes: Mapping[str, Tensor] = {}
    tower = model.layout.tower((place.label or "").partition(".")[0])
    readers = {(site.tied[0] if site.read_again else site.path): site for site in place.consumers}

    def hook(path: str, site: Site) -> Any:
        def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = split(args, kwargs)[0]
            if path not in leader:
                leader[path] = next((p for p, other in given.items() if other is x), path)
                found.setdefault(leader[path], Reading()).sites.append(site)
            if leader[path] != path:
                return
            given[path] = x
            moments = found[path].moments
            for name, rows in rows_by_modality(x, codes.get(tower.name), tower.modality).items():
                moments.setdefault(name, Moment(rows.shape[-1])).update(rows)

        return see

    handles = [
        model.module.get_submodule(path).register_forward_pre_hook(hook(path, site), with_kwargs=True)
        for path, site in readers.items()
    ]
    try:
        for batch in batches:
            codes = model.family.tokens(model.module, batch)
            given.clear()
            model.module(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return [reading for reading in found.values() if any(moment.tokens for moment in reading.moments.values())]


def _weight(model: Model, site: Site) -> Tensor:
    found: Any = model.module.get_submodule(site.path).weight
    return found.detach().float()  # type: ignore[no-any-return]


def _stacked(model: Model, reading: Reading) -> Tensor:
    return torch.cat([_weight(model, site) for site in reading.sites])


def _by_energy(model: Model, place: Place, readings: Sequence[Reading], mix: Mix) -> Tensor:
    total = torch.zeros(width(place), dtype=torch.float64)
    for reading in readings:
        part = energies(_stacked(model, reading), mix(reading.moments).square).cpu()
        total += part / part.sum().clamp(min=1e-30)
    return total


def _by_activation(model: Model, place: Place, readings: Sequence[Reading], mix: Mix) -> Tensor:
    return torch.stack([mix(reading.moments).square.double().sqrt().cpu() for reading in readings]).sum(0)


def _by_magnitude(model: Model, place: Place, readings: Sequence[Reading], mix: Mix) -> Tensor:
    label = place.label or ""
    along = []
    for site in place.sites:
        weight = _weight(model, site)
        if site.writes(label):
            along.append((weight, site.output_dim if site.kind != "norm" else 0))
        if site.reads(label) and site.kind != "embedding":
            along.append((weight, 1))
    along += [(model.module.get_parameter(bare.path).detach(), -1) for bare in place.bare]
    return magnitudes(along, width(place))


_SCORES = {"energy": _by_energy, "activation": _by_activation, "magnitude": _by_magnitude}


def rescaled(model: Model, place: Place, kept: Sequence[int]) -> dict[str, Tensor]:
    """The weights of the norms that divide by the root of a mean square: what is zero no longer counts in the mean."""
    found: dict[str, Tensor] = {}
    factor = math.sqrt(width(place) / len(kept))
    for site in place.sites:
        norm = model.module.get_submodule(site.path)
        if site.kind != "norm" or isinstance(norm, nn.LayerNorm):
            continue
        offset = offset_of(norm)
        if offset is None:
            raise TrimodalError(f"prune.width at {place.name}: {site.path} is a norm of a kind that is not known")
        found[f"{site.path}.weight"] = (_weight(model, site)[list(kept)] + offset) * factor - offset
    return found


def errors(model: Model, readings: Sequence[Reading], kept: Sequence[int]) -> dict[str, float]:
    """By modality E‖Δy‖² / E‖y‖² over all layers that read the stream, if norms gave them what they gave before."""
    lost: dict[str, float] = {}
    whole: dict[str, float] = {}
    for reading in readings:
        weight = _stacked(model, reading)
        change = weight.clone()
        change[:, list(kept)] = 0.0
        for name, moment in reading.moments.items():
            lost[name] = lost.get(name, 0.0) + quadratic(change, moment.second)
            whole[name] = whole.get(name, 0.0) + quadratic(weight, moment.second)
    return {name: lost[name] / whole[name] if whole[name] > 0 else 0.0 for name in lost}


METHOD = Method(
    name="prune.width",
    kind="prune",
    paper="Muralidharan et al. 2024, Minitron, arXiv 2407.14679",
    idea="Dimensions of a tower's stream that its layers read least go, in every layer along it.",
    config=WidthConfig,
    on="axis",
    unit="width",
    refuse=refuse,
    wants=wants,
    forecast=forecast,
    survey=survey,
)

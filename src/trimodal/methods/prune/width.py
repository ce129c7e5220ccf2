"""Hidden width: dimensions of a tower's residual stream go (Minitron: Muralidharan, Sreenivas, Joshi, Chochowski, Patwary,
Shoeybi, Catanzaro, Kautz, Molchanov 2024, arXiv 2407.14679).

Idea. What runs from block to block is a vector per token; every layer reads all of it through a norm, or adds to all of it.
A dimension that the layers hardly read can go, and with it a column of every layer that reads the stream and a row of every
one that writes to it: embeddings, positions, class tokens, norms, heads. Heads and neurons stay.

Problem. Choose n' of the n dimensions of a stream so that what the layers make of it changes least; y = W x, with x (T, n)
what a norm gives them.

Algorithm.
    1. worth of dimension i, by `score`; a *reading* is what layers are given together, W (m, n) their weights one below another
         energy      Σ over readings of ‖W_:,i‖² E[x_i²] / Σ_j ‖W_:,j‖² E[x_j²]: its share in what they make of the stream
         activation  Σ over readings of √E[x_i²] (Minitron)
         magnitude   Σ over all weights along the stream of their squares at i (DepGraph, arXiv 2301.12900); needs no data
    2. keep the n' dimensions of the largest worth, of equals the first; n' is rounded up to a `multiple`
    3. norms by root mean square: weight · √(n / n')
    4. with `refit`, reading by reading in running order: W', b' that minimise E‖(W x + b) − (W' x' + b')‖², x' being what the
       layers are given once all before them are narrow and fitted (see `prune/unit_consumers.py`)

Step 3 makes the cut exactly what zeroing would be, but for ε: with n − n' zeros the mean square over n is n'/n of that over n',
so w x / √(s n'/n + ε) = w √(n/n') x / √(s + ε n/n') with s the mean square over n'. ε stays what it is, as configurations
have one for all norms, also those of heads that are not on the stream (Qwen3): a relative change of at most ½ ε (n/n' − 1) / s,
2·10⁻⁷ for ε = 10⁻⁶, s = 1 and a quarter removed, but 1.7 % where s is only ten times ε. A layer norm of fewer dimensions takes
its mean and variance over those, which no weight can undo: what is cut is the masked model with such norms. Step 4 makes up for
what it can of either.

Cost. One pass over the calibration data, n² numbers for each reading; `refit` one more pass through both models for each
reading, and the model a second time in memory. Fails where few dimensions carry much for all tokens (outliers of large
language models): they stay, whatever else. Fits few tokens too well: the calibration data should have several times n of them.
A dimension that carries nothing on any token goes first: the stream is a sum of what layers write to it, so nothing is written there.
Where a model hands out its stream (a bare encoder), or something along it cannot be cut, it is refused.

Departs from Minitron: the root mean square over all tokens in place of the mean over a text's and the root over texts; each
norm's share is counted, where `energy` does; no search over architectures.

By hand. One reading of one layer, W = [2, 1], E[x xᵀ] = [[1, ½], [½, 1]]: shares 4/5 and 1/5, dimension 0 stays. If a norm
does not change it, W' = 2 + 1·½ = 2.5; E‖Δy‖² is 1 as cut, and ¼ − ½ + 1 = 0.75 after the fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trimodal.core import Change, Cut, Place, Site
from trimodal.errors import TrimodalError, UnreachedError
from trimodal.graph.fusion_discovery import norm_offset_of
from trimodal.graph.stream_inputs import InputGroup, collect_stream_inputs, stream_width
from trimodal.methods.method import Method, Mix
from trimodal.methods.options import option
from trimodal.methods.prune.expert_neurons import EXPERT_STEP
from trimodal.methods.prune.structured import count_kept_units
from trimodal.methods.prune.unit_consumers import predict_errors, read_weight, refit_consumers, stack_weights
from trimodal.models.model import Batch, Model
from trimodal.statistics import StatisticKind

Score = Literal["energy", "activation", "magnitude"]


@dataclass(frozen=True)
class WidthConfig:
    """Options of `prune.width`."""

    sparsity: float = option(0.25, "fraction of the stream's dimensions removed", low=0.0, high=1.0, search=(0.125, 0.25, 0.5))
    multiple: int = option(8, "the dimensions that stay are rounded up to a multiple of this", low=2, high=1024)
    score: Score = option(
        "energy", "what a dimension is worth: what it adds to the layers that read it, how large norms make it, or the "
        "weights that hang on it", choices=("energy", "activation", "magnitude"), search=("energy", "activation"),
    )  # fmt: skip
    refit: bool = option(True, "with data, layers that read the stream are fitted to give from what is left what they gave")
    damping: float = option(0.001, "pull towards the weights as they were, as a share of the input's mean square", low=1e-6, high=1.0)


def refuse(place: Place, config: WidthConfig) -> str | None:
    """Why a stream is left alone."""
    for site in place.sites:
        if site.stored != "dense":
            return f"{site.name} is already {site.stored}; prune before that"
        if site.tied and not site.goes_with_tied:
            return f"{site.name} shares its weight with {site.tied[0]}; prune before that"
    units = stream_width(place)
    if config.multiple % EXPERT_STEP and any(site.kind == "experts" for site in place.sites):
        return f"its experts are multiplied in rows of whole 16 bytes; give a multiple of {EXPERT_STEP}, not {config.multiple}"
    if config.sparsity > 0 and count_kept_dimensions(units, config) == units:
        return f"{config.sparsity:g} of its {units} dimensions is none, as a multiple of {config.multiple} stays"
    return None


def count_kept_dimensions(units: int, config: WidthConfig) -> int:
    """How many of `units` dimensions stay."""
    least = count_kept_units(units, config.sparsity)
    return units if config.sparsity == 0 else min(units, -(-least // config.multiple) * config.multiple)


def wants(place: Place, config: WidthConfig) -> StatisticKind | None:
    """Data, unless sizes alone decide."""
    return None if config.score == "magnitude" else "moment"


def forecast(place: Place, config: WidthConfig) -> Sequence[Site]:
    """All layers along the stream, with fewer dimensions."""
    kept = range(count_kept_dimensions(stream_width(place), config))
    return tuple(site.cut_units(place.label or "", kept) for site in place.sites)


def compute_dimension_energies(weight: Tensor, square: Tensor) -> Tensor:
    """What every dimension adds by itself to E‖W x‖², for W (m, n) and E[x_i²] (n,): (n,)."""
    return weight.double().square().sum(0) * square.double()


def compute_dimension_norms(weights: Sequence[tuple[Tensor, int]], units: int) -> Tensor:
    """Per dimension the squared norm of all that hangs on it, of each weight along the dimension named with it: (n,)."""
    total = torch.zeros(units, dtype=torch.float64)
    for weight, dim in weights:
        total += weight.double().movedim(dim, 0).reshape(units, -1).square().sum(1).cpu()
    return total


def score_by_energy(model: Model, place: Place, readings: Sequence[InputGroup], mix: Mix) -> Tensor:
    """Σ over readings of the share of E‖W x‖² that a dimension brings: float64 (width,)."""
    total = torch.zeros(stream_width(place), dtype=torch.float64)
    for reading in readings:
        part = compute_dimension_energies(stack_weights(model, reading), mix(reading.moments).square).cpu()
        total += part / part.sum() if part.any() else part
    return total


def score_by_activation(model: Model, place: Place, readings: Sequence[InputGroup], mix: Mix) -> Tensor:
    """Σ over readings of the root mean square of a dimension: float64 (width,)."""
    return torch.stack([mix(reading.moments).square.double().sqrt().cpu() for reading in readings]).sum(0)


def score_by_magnitude(model: Model, place: Place, readings: Sequence[InputGroup], mix: Mix) -> Tensor:
    """Σ of squares over all weights along the stream: (width,)."""
    label = place.label or ""
    along = []
    for site in place.sites:
        if site.writes_label(label):
            weight, groups = read_weight(model, site), site.groups if site.kind == "experts" else 1
            along.append((weight.unflatten(0, (groups, -1)), 1) if groups > 1 else (weight, site.output_dim))
        if site.reads_label(label) and site.kind != "embedding":
            along.append((read_weight(model, site), 1))
    along += [(model.module.get_parameter(bare.path).detach(), -1) for bare in place.free_parameters]
    return compute_dimension_norms(along, stream_width(place))


SCORES: Mapping[Score, Callable[[Model, Place, Sequence[InputGroup], Mix], Tensor]] = {
    "energy": score_by_energy, "activation": score_by_activation, "magnitude": score_by_magnitude,
}  # fmt: skip


def rescale_norms(model: Model, place: Place, kept: Sequence[int]) -> dict[str, Tensor]:
    """The weights (kept,) of the norms that divide by a root mean square, by name, for a mean over fewer dimensions.

    Raises:
        TrimodalError: a norm is of a kind that is not known.
    """
    found: dict[str, Tensor] = {}
    factor = math.sqrt(stream_width(place) / len(kept))
    for site in place.sites:
        norm = model.module.get_submodule(site.path)
        if site.kind == "norm" and not isinstance(norm, nn.LayerNorm):
            offset = norm_offset_of(norm)
            if offset is None:
                raise TrimodalError(f"prune.width at {place.name}: {site.path} is a {type(norm).__name__}, no norm that is known")
            found[f"{site.path}.weight"] = (read_weight(model, site)[list(kept)] + offset) * factor - offset
    return found


def survey(model: Model, place: Place, batches: Sequence[Batch], mix: Mix, config: WidthConfig) -> Change:
    """Choose the dimensions that stay, scale the norms over them, and fit the layers that read them.

    Raises:
        UnreachedError: no calibration sample ran through it, and the score needs one.
    """
    units = stream_width(place)
    readings = collect_stream_inputs(model, place, batches)
    if not readings and wants(place, config) is not None:
        raise UnreachedError(
            f"prune.width at {place.name}: no calibration sample ran through it; give data that uses the {place.tower} tower"
        )
    worth = SCORES[config.score](model, place, readings, mix)
    order = torch.sort(worth, descending=True, stable=True).indices
    kept = tuple(sorted(order[: count_kept_dimensions(units, config)].tolist()))
    tensors = rescale_norms(model, place, kept)
    error = predict_errors(model, readings, kept)
    if config.refit and readings and len(kept) < units:
        values, error = refit_consumers(model, place, kept, tensors, readings, batches, mix, config.damping)
        tensors |= values
    return Change(cut=Cut(place.label or "", kept, tensors=tensors), error=error, notes=(f"{len(kept)} of {units} stay",))


METHOD = Method(
    name="prune.width",
    kind="prune",
    paper="Muralidharan et al. 2024, Minitron, arXiv 2407.14679",
    idea="Dimensions of a tower's stream that its layers read least go, in every layer along it; readers are refitted.",
    config=WidthConfig,
    on="axis",
    unit="width",
    refuse=refuse,
    wants=wants,
    forecast=forecast,
    survey=survey,
)

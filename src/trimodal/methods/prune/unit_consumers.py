"""What layers read from the stream that runs through a tower, and fitting them to a stream with fewer dimensions.

The layers that read one norm (query, key and value; up and gate) are given the very same tensor: one *reading*. After a cut
each reading is fitted in the order in which they run, every one to what it is really given by then:

    x (T, n)    what the reading's layers are given in the model as it is
    x' (T, n')  what they are given in the narrower model, whose earlier readings are fitted already
    W', b'      minimise E‖(W x + b) − (W' x' + b')‖² + d ‖W' − W_K‖², with W_K the columns of W that stay: a ridge regression
                from E[x' x'ᵀ] (n', n') and E[x x'ᵀ] (n, n'), both with a further input that is always 1 where there is a bias

So a layer makes up for what a norm's mean and variance over fewer dimensions do, too. Costs one pass through both models
as far as the reading. d is `damping` times the mean square of x'; few tokens want more of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import Place, Site
from trimodal.edits.cut import cut_units_
from trimodal.errors import TrimodalError
from trimodal.maths.error import quadratic_form
from trimodal.methods.method import Mix
from trimodal.models.blocks import split_block_inputs
from trimodal.models.foreign import StopForward, run_forward
from trimodal.models.model import Batch, Model
from trimodal.statistics import Moment, split_rows_by_modality

Errors = dict[str, float]


@dataclass
class InputGroup:
    """One input that layers take from the stream, seen at the layer at `path`: all the layers, by modality its moment, and
    whether every batch brought it there just once."""

    path: str
    once: bool = True
    sites: list[Site] = field(default_factory=list)
    moments: dict[str, Moment] = field(default_factory=dict)


def stream_width(place: Place) -> int:
    """How many dimensions the stream has."""
    axis = place.observed_site.input_axis
    if place.label is None or axis is None:
        raise TrimodalError(f"{place.name} is no stream")
    return axis.units_of(place.label)


def collect_stream_inputs(model: Model, place: Place, batches: Sequence[Batch]) -> list[InputGroup]:
    """The readings of a stream in the order in which they run; layers that never ran are in none."""
    found: dict[str, InputGroup] = {}
    leader: dict[str, str] = {}
    given: dict[str, Tensor] = {}
    rows = _StreamRows(model, place)

    def hook(path: str, site: Site) -> Any:
        def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = split_block_inputs(args, kwargs)[0]
            if path not in leader:
                leader[path] = next((other for other, seen in given.items() if seen is x), path)
                found.setdefault(leader[path], InputGroup(leader[path])).sites.append(site)
            if leader[path] == path:
                found[path].once = found[path].once and path not in given
                given[path] = x
                for name, part in rows.split_by_modality(x).items():
                    found[path].moments.setdefault(name, Moment(part.shape[-1])).update(part)

        return see

    readers = {(site.tied[0] if site.is_read_again else site.path): site for site in place.consumers}
    handles = [
        model.module.get_submodule(path).register_forward_pre_hook(hook(path, site), with_kwargs=True)
        for path, site in readers.items()
    ]
    try:
        for batch in batches:
            given.clear()
            rows.set_batch_(batch)
            run_forward(model.module, batch)
    finally:
        for handle in handles:
            handle.remove()
    return [reading for reading in found.values() if any(moment.tokens for moment in reading.moments.values())]


class _StreamRows:
    """The tokens of a stream, by modality: whoever reads it, they are those of its own tower."""

    def __init__(self, model: Model, place: Place) -> None:
        self._model = model
        self._tower = model.layout.get_tower((place.label or "").partition(".")[0])
        self._codes: Tensor | None = None

    def set_batch_(self, batch: Batch) -> None:
        """`batch` is about to run."""
        self._codes = self._model.family.tokens(self._model.module, batch).get(self._tower.name)

    def split_by_modality(self, x: Tensor) -> dict[str, Tensor]:
        """The rows (tokens, n) of x (batch, tokens, n), without padding."""
        return split_rows_by_modality(x, self._codes, self._tower.modality)


def read_weight(model: Model, site: Site) -> Tensor:
    """The weight of a site in float32."""
    layer: Any = model.module.get_submodule(site.path)
    found: Tensor = layer.weight.detach().float()
    return found


def stack_weights(model: Model, reading: InputGroup) -> Tensor:
    """The weights of a reading's layers together: (Σ m, n)."""
    return torch.cat([read_weight(model, site) for site in reading.sites])


def divide_errors(lost: Mapping[str, float], whole: Mapping[str, float]) -> Errors:
    """`lost` in relation to `whole`."""
    return {name: lost[name] / whole[name] if whole[name] > 0 else 0.0 for name in lost}


def predict_errors(model: Model, readings: Sequence[InputGroup], kept: Sequence[int]) -> Errors:
    """By modality E‖Δy‖² / E‖y‖² over all layers that read the stream, if they were given the same but for what goes."""
    lost: Errors = {}
    whole: Errors = {}
    for reading in readings:
        weight = stack_weights(model, reading)
        change = weight.clone()
        change[:, list(kept)] = 0.0
        for name, moment in reading.moments.items():
            lost[name] = lost.get(name, 0.0) + quadratic_form(change, moment.second)
            whole[name] = whole.get(name, 0.0) + quadratic_form(weight, moment.second)
    return divide_errors(lost, whole)


def refit_consumers(
    model: Model, place: Place, kept: Sequence[int], tensors: Mapping[str, Tensor], readings: Sequence[InputGroup],
    batches: Sequence[Batch], mix: Mix, damping: float,
) -> tuple[dict[str, Tensor], Errors]:  # fmt: skip
    """Weights and biases of the layers that read the stream once it has only the dimensions `kept` and `tensors` have
    other values, by name; and by modality E‖Δy‖² / E‖Wx‖² over all of them. Embeddings that are read again stay."""
    narrow = copy.deepcopy(model.module)
    cut_units_(narrow, model.layout, place.label or "", kept)
    _set_parameters_(narrow, tensors)
    found: dict[str, Tensor] = {}
    lost: Errors = {}
    whole: Errors = {}
    for reading in readings:
        seen = collect_paired_moments(model, narrow, place, reading, kept, batches)
        both = mix(seen)
        for site in reading.sites:
            old = _append_bias(model, site)
            new = old[:, [*kept, *range(stream_width(place), old.shape[1])]].double()
            if not site.is_read_again:
                new = fit_narrow_weight(old, both, kept, damping)
                own = {f"{site.path}.weight": new[:, : len(kept)].float()}
                own |= {f"{site.path}.bias": new[:, -1].float()} if site.bias else {}
                _set_parameters_(narrow, own)
                found |= own
            for name, moment in seen.items():
                before = quadratic_form(old[:, : stream_width(place)], reading.moments[name].second)
                lost[name] = lost.get(name, 0.0) + measure_residual_error(old, new, moment, reading.moments[name], kept)
                whole[name] = whole.get(name, 0.0) + before
    return found, divide_errors(lost, whole)


def collect_paired_moments(
    model: Model, narrow: nn.Module, place: Place, reading: InputGroup, kept: Sequence[int], batches: Sequence[Batch]
) -> dict[str, Moment]:
    """By modality the moment of (x', 1), with zeros in x' for what is gone, and across with (x, 1): (n + 1, n + 1) each."""
    found: dict[str, Moment] = {}
    rows, n = _StreamRows(model, place), stream_width(place)
    for batch in batches:
        rows.set_batch_(batch)
        before, after = (_record_inputs(module, reading, batch) for module in (model.module, narrow))
        for x, given in zip(before, after, strict=True):
            wide = given.new_zeros(*given.shape[:-1], n)
            wide[..., list(kept)] = given
            originals = rows.split_by_modality(_append_ones(x))
            for name, part in rows.split_by_modality(_append_ones(wide)).items():
                found.setdefault(name, Moment(n + 1)).update(part, originals[name])
    return found


def fit_narrow_weight(old: Tensor, seen: Moment, kept: Sequence[int], damping: float) -> Tensor:
    """(W', b') (m, n' + 1) for (W, b) (m, n + 1), or W' (m, n') for W (m, n), in float64; the ridge leaves b' free."""
    size = old.shape[1]
    columns = [*kept, *range(seen.columns - 1, size)]
    c, cross = seen.second.double()[columns][:, columns], _require_cross_moment(seen)[:size, columns]
    ridge = torch.zeros(len(columns), dtype=torch.float64, device=c.device)
    ridge[: len(kept)] = damping * c.diagonal()[: len(kept)].mean()
    target = old.double() @ cross + old.double()[:, columns] * ridge
    found: Tensor = torch.linalg.solve(c + ridge.diag(), target.T).T
    return found


def measure_residual_error(old: Tensor, new: Tensor, seen: Moment, given: Moment, kept: Sequence[int]) -> float:
    """E‖(W x + b) − (W' x' + b')‖² for what `fit_narrow_weight` takes and gives; `given` is the moment of x."""
    n, size = given.columns, old.shape[1]
    whole = torch.eye(n + 1, dtype=torch.float64, device=old.device)
    whole[:n, :n], whole[:n, n], whole[n, :n] = given.second, given.mean, given.mean
    wide = torch.zeros_like(old, dtype=torch.float64)
    wide[:, [*kept, *range(n, size)]] = new
    both = float(((old.double() @ _require_cross_moment(seen)[:size, :size]) * wide).sum())
    return max(quadratic_form(old, whole[:size, :size]) + quadratic_form(wide, seen.second[:size, :size]) - 2 * both, 0.0)


def _require_cross_moment(seen: Moment) -> Tensor:
    if seen.cross is None:
        raise TrimodalError("the inputs of the whole model were not seen beside those of the narrower one")
    return seen.cross.double()


def _append_ones(x: Tensor) -> Tensor:
    return torch.cat((x, x.new_ones(*x.shape[:-1], 1)), dim=-1)


def _append_bias(model: Model, site: Site) -> Tensor:
    """Weight (m, n), and where it has a bias that as a further column."""
    layer: Any = model.module.get_submodule(site.path)
    parts = [read_weight(model, site), *([layer.bias.detach().float()[:, None]] if site.bias else [])]
    return torch.cat(parts, dim=1)


def _set_parameters_(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in tensors.items():
            module.get_parameter(name).copy_(value)


def _record_inputs(module: nn.Module, reading: InputGroup, batch: Batch) -> list[Tensor]:
    """What the layers of a reading are given for `batch`, call by call."""
    found: list[Tensor] = []

    def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(split_block_inputs(args, kwargs)[0])
        if reading.once:
            raise StopForward

    handle = module.get_submodule(reading.path).register_forward_pre_hook(see, with_kwargs=True)
    try:
        with suppress(StopForward):
            run_forward(module, batch)
    finally:
        handle.remove()
    return found

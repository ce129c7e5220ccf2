"""What layers read from the stream that runs through a tower, seen by running the model, and a copy of it with a narrower one.

The layers that read one norm (query, key and value; up and gate) are given the very same tensor: one *input group*.
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
from trimodal.core.site import ROUTER
from trimodal.edits.cut import cut_units_
from trimodal.errors import TrimodalError
from trimodal.models.blocks import split_block_inputs
from trimodal.models.foreign import StopForward, run_forward
from trimodal.models.model import Batch, Model
from trimodal.statistics import Moment, find_token_codes, split_rows_by_modality


@dataclass
class InputGroup:
    """One input that layers take from the stream, seen at the layer at `path`: all the layers, by modality its moment, and
    whether every batch brought it there just once."""

    path: str
    once: bool = True
    sites: list[Site] = field(default_factory=list)
    moments: dict[str, Moment] = field(default_factory=dict)


def stream_width(place: Place) -> int:
    """How many dimensions the stream has.

    Raises:
        TrimodalError: the place is no stream.
    """
    axis = place.observed_site.input_axis
    if place.label is None or axis is None:
        raise TrimodalError(f"{place.name} is no stream")
    return axis.units_of(place.label)


def collect_stream_inputs(model: Model, place: Place, batches: Sequence[Batch]) -> list[InputGroup]:
    """The readings of a stream in the order in which they run; layers that never ran, and convolutions, are in none."""
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
                for name, part in rows.split_by_modality(x, site).items():
                    found[path].moments.setdefault(name, Moment(part.shape[-1])).update(part)

        return see

    experts = [site for site in place.consumers if site.kind == "experts"]
    plain = [site for site in place.consumers if site not in experts and len(site.shape) == 2]
    readers = {(site.tied[0] if site.is_read_again else site.path): site for site in plain}
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
    _add_experts(experts, list(found.values()))
    return [reading for reading in found.values() if any(moment.tokens for moment in reading.moments.values())]


def _add_experts(experts: Sequence[Site], readings: Sequence[InputGroup]) -> None:
    """Let experts be among those that read what their router reads: the tokens that come to each are some of these."""
    for site in experts:
        for reading in readings:
            if any((one.tower, one.block, one.role) == (site.tower, site.block, ROUTER) for one in reading.sites):
                reading.sites.append(site)
                break


def copy_narrowed(model: Model, place: Place, kept: Sequence[int], tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the module in which the stream has only the dimensions `kept`, and `tensors`, of the shapes that are left, have
    other values, by name."""
    narrow = copy.deepcopy(model.module)
    cut_units_(narrow, model.layout, place.label or "", kept)
    set_parameters_(narrow, tensors)
    return narrow


def set_parameters_(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give parameters of `module` other values, by name; shapes and types stay."""
    with torch.no_grad():
        for name, value in tensors.items():
            module.get_parameter(name).copy_(value)


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
            originals = rows.split_by_modality(_append_ones(x), reading.sites[0])
            for name, part in rows.split_by_modality(_append_ones(wide), reading.sites[0]).items():
                found.setdefault(name, Moment(n + 1)).update(part, originals[name])
    return found


class _StreamRows:
    """The tokens of a stream, by modality. They are those of its own tower, or where it runs through several, of the reader's."""

    def __init__(self, model: Model, place: Place) -> None:
        self._model = model
        self._tower = model.layout.get_tower((place.label or "").partition(".")[0])
        self._codes: dict[str, Tensor] = {}

    def set_batch_(self, batch: Batch) -> None:
        """`batch` is about to run."""
        self._codes = dict(self._model.family.tokens(self._model.module, batch))

    def split_by_modality(self, x: Tensor, site: Site) -> dict[str, Tensor]:
        """The rows (tokens, n) of x (batch, tokens, n), which `site` is given, without padding."""
        codes = find_token_codes(self._codes, site.stream, x)
        if codes is None or codes.shape[:1] != x.shape[:1] or codes.numel() * x.shape[-1] != x.numel():
            codes = find_token_codes(self._codes, self._tower.name, x)
        return split_rows_by_modality(x, codes, self._tower.modality)


def _append_ones(x: Tensor) -> Tensor:
    return torch.cat((x, x.new_ones(*x.shape[:-1], 1)), dim=-1)


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

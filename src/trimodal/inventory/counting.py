"""`inspect`: count parameters, bytes and MACs (multiply-accumulates) of a model, per site and per tower. Works on the meta device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from trimodal.core import Layout, Site, Tower, UntouchedTensors, group_untouched
from trimodal.errors import ModelError
from trimodal.inventory.places import find_owning_tower, match_tensors_to_sites
from trimodal.inventory.result import Inventory, OtherParameters, SiteRow, TowerRow
from trimodal.models.copying import copy_module, copy_to_meta
from trimodal.models.foreign import run_forward
from trimodal.models.model import Batch, Model

LARGEST_REAL_RUN = 1_000_000_000  # parameters


def inspect(model: Model, batch: Batch | None = None, count: bool = True) -> Inventory:
    """The inventory of `model`. MACs are counted on `batch`, else on the family's example of one sample, unless they
    are not to be: that takes a forward pass."""
    sites = tuple(_make_site_row(site) for site in model.layout.sites)
    other = tuple(_find_other_parameters(model.module, model.layout))
    rows: list[SiteRow | OtherParameters] = [*sites, *other]
    stored = sum(row.bytes for row in rows)
    inputs, note = (dict(batch), "") if batch is not None else _make_example(model) if count else ({}, "they were not asked for")
    total, per_tower, note = (None, {}, note) if note else _count_macs(model, inputs)
    return Inventory(
        name=model.name,
        family=model.family.name,
        parameters=sum(row.parameters for row in rows),
        bytes=stored,
        buffer_bytes=_count_buffer_bytes(model.module, model.layout),
        macs=total,
        towers=tuple(_make_tower_row(t, sites, other, stored, per_tower.get(t.name)) for t in model.layout.towers),
        sites=sites,
        other=other,
        input_shapes={name: tuple(value.shape) for name, value in inputs.items() if isinstance(value, Tensor)},
        macs_note=note,
        in_no_place=_find_unplaced_tensors(model),
    )


def _find_unplaced_tensors(model: Model) -> UntouchedTensors:
    """The tensors of no site."""
    found = list(match_tensors_to_sites(model.module, model.layout))
    return group_untouched(((tensor, "in no place") for tensor, site in found if site is None), sum(t.bytes for t, _ in found))


def _make_site_row(site: Site) -> SiteRow:
    bias = site.shape[0] if site.bias else 0
    weights = 0 if site.stored == "shared" else math.prod(site.shape)  # counted where it first runs
    return SiteRow(
        name=site.name, path=site.path, tower=site.tower, role=site.role, shape=site.shape, stored=site.stored,
        parameters=weights + bias, bytes=site.stored_bytes - site.running_bytes, tied=site.tied,
    )  # fmt: skip


def _make_tower_row(
    tower: Tower,
    sites: tuple[SiteRow, ...],
    other: tuple[OtherParameters, ...],
    all_bytes: int,
    macs: int | None,
) -> TowerRow:
    own = [row for row in sites if row.tower == tower.name]
    rows: list[SiteRow | OtherParameters] = [*own, *(row for row in other if row.tower == tower.name)]
    held = sum(row.bytes for row in rows)
    return TowerRow(
        name=tower.name, modality=tower.modality, blocks=len(tower.blocks), sites=len(own),
        parameters=sum(row.parameters for row in rows), bytes=held, share=held / all_bytes if all_bytes else 0.0,
        macs=macs,
    )  # fmt: skip


def _find_other_parameters(module: nn.Module, layout: Layout) -> Iterator[OtherParameters]:
    """Parameters that stand at no site, each once."""
    seen = {id(p) for site in layout.sites for p in module.get_submodule(site.path).parameters()}
    for name, parameter in module.named_parameters():
        if id(parameter) not in seen:
            size = parameter.numel()
            yield OtherParameters(name, find_owning_tower(name, layout.towers), size, size * parameter.element_size())


def _count_buffer_bytes(module: nn.Module, layout: Layout) -> int:
    """Bytes of buffers that a checkpoint holds, without those that are a compressed site's store."""
    packed = [site.path for site in layout.sites if site.stored != "dense"]
    named = dict(module.named_parameters(remove_duplicate=False))
    return sum(
        value.numel() * value.element_size()
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor) and name not in named and not any(name.startswith(f"{p}.") for p in packed)
    )


def _make_example(model: Model) -> tuple[dict[str, Any], str]:
    """One sample of the usual size, or why there is none."""
    try:
        found = model.example()
    except ModelError as error:
        return {}, str(error)
    return found, "" if found else "nothing says what its inputs are; give a batch, or the module a method example()"


def _count_macs(model: Model, inputs: Mapping[str, Any]) -> tuple[int | None, dict[str, int], str]:
    """(all multiply-accumulates, those per tower, why there are none) for one of the samples in `inputs`.

    The forward runs on tensors without values, which takes no time at any size. A few models look at values on their
    way; those run for real where they have values and are not too large for that.
    """
    module = model.module
    try:
        counts = _count_module_macs(copy_to_meta(module), tree_map_only(Tensor, lambda tensor: tensor.to("meta"), dict(inputs)))
    except ModelError as failure:
        tensors = [*module.parameters(), *module.buffers()]
        if any(tensor.is_meta for tensor in tensors):
            return None, {}, f"the forward looks at values, and there are none here: {failure}"
        if sum(tensor.numel() for tensor in tensors) > LARGEST_REAL_RUN:
            return None, {}, "the forward looks at values, and the model is too large to be run for real just to count"
        try:
            counts = _count_module_macs(copy_module(module), inputs)
        except ModelError as again:
            return None, {}, str(again)
    samples = next((len(leaf) for leaf in tree_leaves(dict(inputs)) if isinstance(leaf, Tensor) and leaf.dim()), 1) or 1
    counts = {path: macs // samples for path, macs in counts.items()}
    return counts.get("Global", 0), _sum_tower_macs(module, model.layout.towers, counts), ""


def _count_module_macs(module: nn.Module, inputs: Mapping[str, Any]) -> dict[str, int]:
    """Multiply-accumulates of one forward of `module`, a copy to be thrown away, by `Class.path` and `Global`."""
    counter = FlopCounterMode(display=False)
    device = next((leaf.device for leaf in tree_leaves(dict(inputs)) if isinstance(leaf, Tensor)), torch.device("cpu"))
    with torch.no_grad(), device, counter:
        run_forward(module.eval().requires_grad_(False), inputs, "")  # a parameter that a part is given would be asked for its gradient
    return {path: sum(kinds.values()) // 2 for path, kinds in counter.get_flop_counts().items()}


def _sum_tower_macs(module: nn.Module, towers: Sequence[Tower], counts: Mapping[str, int]) -> dict[str, int]:
    """By tower, the multiply-accumulates of its parts, without those of another tower that stand inside of them. `counts` as
    `_count_module_macs` gives them."""
    root = type(module).__name__
    owners = {f"{root}.{prefix}" if prefix else root: (tower.name, prefix) for tower in towers for prefix in tower.prefixes}
    found = dict.fromkeys((tower.name for tower in towers), 0)
    for path, (name, prefix) in owners.items():
        macs = _get_part_macs(module.get_submodule(prefix), path, counts)
        found[name] += macs
        around = [outer for outer in owners if path.startswith(f"{outer}.")]
        if around:
            found[owners[max(around, key=len)][0]] -= macs
    return found


def _get_part_macs(part: nn.Module, path: str, counts: Mapping[str, int]) -> int:
    """Those of `part`; of one that is never called itself, such as a list, those of what it holds."""
    if path in counts:
        return counts[path]
    return sum(_get_part_macs(child, f"{path}.{name}", counts) for name, child in part.named_children())

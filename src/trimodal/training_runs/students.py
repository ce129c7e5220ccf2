"""A student made of its teacher: some of its blocks, some of its width, with the teacher's weights.

    {student_of: TEACHER, layers: 3}                  three blocks of each tower, as far apart as can be, the first and the last among them
    {student_of: TEACHER, layers: {text: [0, 5]}}     those of one tower; the others stay whole
    {student_of: TEACHER, width: 0.5}                 half the stream, half the heads, half the neurons, the most important ones
    {student_of: TEACHER, neurons: 0.5}               half the neurons alone

What is important, `prune.neurons`, `prune.heads` and `prune.width` say, on some of the training samples, and they make what stays take over
for what goes. The student is of the teacher's class, from a configuration with other numbers, so stock Transformers loads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trimodal.core import Place, Sample, Tower
from trimodal.core.site import width_label
from trimodal.data import encode_samples, group_by_modality
from trimodal.edits.apply import apply_change_
from trimodal.edits.drop import DropBlocks
from trimodal.edits.edit import UnfitEditError
from trimodal.errors import RecipeError
from trimodal.loading.load import build_model
from trimodal.methods import list_known_methods
from trimodal.methods.method import Method
from trimodal.methods.options import build_config
from trimodal.models.foreign import run_forward
from trimodal.models.model import Batch, Model
from trimodal.statistics import Moment, find_token_codes, mix_moments, split_rows_by_modality
from trimodal.training_runs.student_config import (
    find_size_names,
    find_tower_config,
    has_own_head_width,
    rebuild_from_config,
    set_tower_sizes_,
)

_SAMPLES = 64  # that say which units matter
_AT_ONCE = 16
Layers = int | Sequence[int] | Mapping[str, int | Sequence[int]]


def cut_student(
    teacher: Model, layers: Layers | None, width: float | None, neurons: float | None, samples: Sequence[Sample], name: str
) -> Model:
    """A student from `teacher`, whose module is changed; `samples` say which units matter.

    Raises:
        RecipeError: the layers are not there, or the width cannot be said in the class's configuration.
    """
    if layers is not None:
        select_layers_(teacher, layers, name)
    if width is not None or neurons is not None:
        cut_width_(teacher, width, neurons if neurons is not None else width or 1.0, samples, name)
    module = rebuild_from_config(teacher.module, name)
    found = build_model(module, teacher.name, teacher.folder)
    found.processors = teacher.processors
    return found


def spread_blocks(count: int, of: int) -> list[int]:
    """`count` of `of` blocks as far apart as can be, the first and the last among them; the first alone if it is one.

    3 of 12: 0, 6, 11
    """
    return [0] if count == 1 else [int(number * (of - 1) / (count - 1) + 0.5) for number in range(count)]


def select_layers_(model: Model, layers: Layers, name: str) -> None:
    """Leave only some blocks of the towers.

    Raises:
        RecipeError: naming the tower and how many blocks it has.
    """
    towers = [tower for tower in model.layout.towers if tower.blocks]
    if isinstance(layers, Mapping) and (unknown := sorted(set(layers) - {tower.name for tower in towers})):
        raise RecipeError(f"{name}: model.layers names {unknown[0]}, but the teacher has {', '.join(tower.name for tower in towers)}")
    for tower in towers:
        wanted = layers.get(tower.name) if isinstance(layers, Mapping) else layers
        if wanted is None:
            continue
        count = len(tower.blocks)
        if isinstance(wanted, int) and not 1 <= wanted <= count:
            raise RecipeError(f"{name}: model.layers is {wanted}, but {tower.name} of the teacher has {count} blocks")
        kept = spread_blocks(wanted, count) if isinstance(wanted, int) else list(wanted)
        if kept == list(range(count)):
            continue
        edit = DropBlocks(tower.name, tuple(kept))
        try:
            edit.check_fits(model.module, model.layout)
        except UnfitEditError as reason:
            raise RecipeError(f"{name}: model.layers {kept}: {reason}; expected ascending numbers from 0 to {count - 1}") from reason
        edit.apply_(model.module, model.layout)
        model.layout = edit.layout_after(model.layout)


def cut_width_(model: Model, width: float | None, neurons: float, samples: Sequence[Sample], name: str) -> None:
    """Leave a fraction `neurons` of each block's neurons, and with `width` that fraction of the stream and of the heads.

    Raises:
        RecipeError: the stream of a tower cannot be cut evenly.
    """
    batches = [encode_samples(model, [samples[row] for row in rows]) for rows in group_by_modality(model, samples[:_SAMPLES], _AT_ONCE)]
    sizes: dict[str, dict[str, int]] = {}
    for tower in (tower for tower in model.layout.towers if tower.blocks):
        config = find_tower_config(model.module, tower)
        found = sizes.setdefault(tower.name, {})
        if find_size_names(config, tower, "neurons"):
            found |= _cut_blocks_(model, tower, "neurons", neurons, batches, name)
        if width is not None and width < 1:
            found |= _cut_stream_(model, tower, config, width, batches, name)
    set_tower_sizes_(model.module, model.layout, sizes)


def _cut_stream_(model: Model, tower: Tower, config: Any, width: float, batches: Sequence[Batch], name: str) -> dict[str, int]:
    """Cut the heads and then the stream, which has a whole number of heads unless their width is said by itself."""
    label = width_label(tower.name)
    units = model.layout.count_units(label)
    heads = next((model.layout.count_units(f"{tower.name}.0.{part}") for part in ("heads", "self.heads")), 0)
    left = max(1, round(heads * width)) if heads else 0
    if not units:
        reason = next((fixed.reason for fixed in model.layout.uncuttable if fixed.label == label), "its stream is not declared")
        if not has_own_head_width(config):
            raise RecipeError(f"{name}: model.width: {tower.name} of the teacher stays as wide as it is: {reason}; give neurons instead")
        return _cut_blocks_(model, tower, "heads", width, batches, name)
    kept = round(units * width) if has_own_head_width(config) or not heads else units * left // heads
    if kept % 2 or kept < 2:
        raise RecipeError(f"{name}: model.width {width:g} leaves {kept} of {units} dimensions of {tower.name}; expected an even number")
    found = _cut_blocks_(model, tower, "heads", width, batches, name) if heads > 1 else {}
    place = Place.for_label(model.layout, label)
    method = _find_method("width")
    assert method.survey is not None
    options = build_config(method.config, {"sparsity": 1 - kept / units, "multiple": 2}, method.name)
    _refuse(method.refuse(place, options), f"{name}: model.width: {tower.name}")
    with torch.no_grad():
        change = method.survey(model, place, batches, lambda moments: mix_moments(moments, "modality"), options)
    apply_change_(model, place, change, method.forecast(place, options))
    return {**found, "width": kept}


def _cut_blocks_(model: Model, tower: Tower, unit: str, fraction: float, batches: Sequence[Batch], name: str) -> dict[str, int]:
    """Cut the neurons or heads of all blocks to the same number; the sizes that are left, by kind."""
    labels = [label for label in model.layout.list_labels() if label.startswith(f"{tower.name}.") and label.endswith(f".{unit}")]
    places = [Place.for_label(model.layout, label) for label in labels]
    if not places or fraction >= 1:
        return {}
    method = _find_method(unit)
    assert method.solve is not None
    options = build_config(method.config, {"sparsity": 1 - fraction}, method.name)
    moments = _collect_moments(model, places, batches)
    for place in places:
        _refuse(method.refuse(place, options), f"{name}: model.width: {place.label}")
        weights = {name: value for site in place.sites for name, value in _read_tensors(model.module, site.path).items()}
        change = method.solve(place, weights, moments.get(place.observed_site.path), options)
        apply_change_(model, place, change, method.forecast(place, options))
    left = model.layout.count_units(labels[0])
    if unit == "neurons":
        return {"neurons": left}
    query = next((site for site in places[0].producers if site.role == "query"), None)
    group = query.output_axis.width // _key_width(places[0]) if query is not None and query.output_axis is not None else 1
    return {"heads": left * group, "key_heads": left}


def _find_method(unit: str) -> Method:
    """The method that prunes units of this kind out of every layer that has them."""
    return next(method for method in list_known_methods() if method.kind == "prune" and method.on == "axis" and method.unit == unit)


def _key_width(place: Place) -> int:
    axes = [site.output_axis for site in place.producers if site.role == "key" and site.output_axis is not None]
    return axes[0].width if axes else 1


def _refuse(reason: str | None, where: str) -> None:
    if reason is not None:
        raise RecipeError(f"{where} cannot be cut so: {reason}")


def _read_tensors(module: nn.Module, path: str) -> dict[str, torch.Tensor]:
    layer = module.get_submodule(path)
    return {f"{path}.{name}": value.detach().float() for name, value in layer.named_parameters(recurse=False)}


@torch.no_grad()
def _collect_moments(model: Model, places: Sequence[Place], batches: Sequence[Batch]) -> dict[str, Moment]:
    """E[x xᵀ] of what each place's observed layer is given, padding left out, by path."""
    found: dict[str, Moment] = {}
    codes: dict[str, torch.Tensor] = {}
    handles = []
    for site in (place.observed_site for place in places):

        def see(_: nn.Module, given: tuple[Any, ...], site: Any = site) -> None:
            x = given[0]
            for rows in split_rows_by_modality(x, find_token_codes(codes, site.stream, x), site.tower).values():
                found.setdefault(site.path, Moment(rows.shape[-1])).update(rows)

        handles.append(model.module.get_submodule(site.path).register_forward_pre_hook(see))
    try:
        for batch in batches:
            codes = dict(model.family.tokens(model.module, batch))
            run_forward(model.module, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found

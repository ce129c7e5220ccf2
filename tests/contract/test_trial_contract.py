"""What every trial owes on every kind of model: the model is afterwards what it was, to the byte, and what the trial says
of error and bytes is what applying it brings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from test_contract import OPTIONS, TAKEN
from torch import Tensor, nn

from trimodal.compression import Trial, apply_trial_, compress_, open_context, try_place
from trimodal.core import Calibration, Edit, PlaceRecord, Plan, PlannedPlace, Source
from trimodal.graph.fusion_discovery import discover_folds
from trimodal.maths.error import weight_error
from trimodal.methods import Method, get_method
from trimodal.models.model import Model
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.networks.tiny import make_miniature_batch
from trimodal.planning import plan_edits, read_recipe

TRIED = [(name, method) for name, method in TAKEN if not get_method(method).trains]


@pytest.fixture(scope="module")
def whole_model(tiny_model: Callable[..., Model]) -> Callable[[str], tuple[Model, list[Mapping[str, Tensor]]]]:
    """A miniature and its calibration batches, made once: no trial may change it, so all can use the same."""

    @cache
    def make(name: str) -> tuple[Model, list[Mapping[str, Tensor]]]:
        model = tiny_model(name)
        batches: list[Mapping[str, Tensor]] = [make_miniature_batch(name, 4, seed) for seed in (1, 2)]
        model.layout = discover_folds(model, batches)
        return model, batches

    return make


def snapshot(model: Model) -> dict[str, Any]:
    """All that a trial could change of a model, and the very tensors beside their values."""
    modules = dict(model.module.named_modules())
    tensors = {**dict(model.module.named_parameters()), **dict(model.module.named_buffers())}
    return {
        "names": list(model.module.state_dict()),
        "values": {name: (tensor.dtype, tensor.detach().clone()) for name, tensor in tensors.items()},
        "objects": {name: id(tensor) for name, tensor in tensors.items()},
        "gradients": {name: (tensor.requires_grad, tensor.grad) for name, tensor in tensors.items()},
        "classes": {name: type(module) for name, module in modules.items()},
        "training": {name: module.training for name, module in modules.items()},
        "own": {name: sorted(vars(module)) for name, module in modules.items()},
        "hooks": {name: [len(hooks) for hooks in hooks_of(module)] for name, module in modules.items()},
        "layout": model.layout,
        "steps": copy.deepcopy(model.steps),
    }


def hooks_of(module: nn.Module) -> list[Mapping[int, Any]]:
    return [module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks]


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, (dtype, value) in before["values"].items():
        found_dtype, found = after["values"][name]
        assert dtype == found_dtype and value.shape == found.shape, name
        assert torch.equal(value.reshape(-1).view(torch.uint8), found.reshape(-1).view(torch.uint8)), name
    for part in before.keys() - {"values"}:
        assert before[part] == after[part], part


def choose_places(planned: Sequence[PlannedPlace], model: Model) -> Iterator[PlannedPlace]:
    """Of places that are alike the first: of one tower, kind of layer, number of layers, and so on."""
    seen = set()
    for place in planned:
        sites = [model.layout.get_site(path) for path in place.paths]
        like = {(site.tower, site.kind, bool(site.tied), site.groups > 1, len(sites)) for site in sites}
        key = (frozenset(like), place.fold.what if place.fold else "")
        if key not in seen:
            seen.add(key)
            yield place


@pytest.mark.parametrize(("name", "method"), TRIED, ids=["-".join(case) for case in TRIED])
def test_a_trial_changes_nothing_and_says_what_applying_it_brings(
    whole_model: Any, stand_in_samples: Any, name: str, method: str
) -> None:
    model, batches = whole_model(name)
    options = OPTIONS.get(method, {})
    (edit,), _ = plan_edits(model.layout, read_recipe({"steps": [{method: options}]}), True)
    places = list(choose_places(edit.places, model))
    before = snapshot(model)
    with stand_in_samples(batches) as samples:
        context = open_context(model, samples)
        for planned in places:
            (trial,) = try_place(context, planned.name, [{method: options}])
            assert_same(before, snapshot(model))
            check_trial(trial, model, get_method(method))
            check_run(trial, model, planned, edit, samples)
            assert_same(before, snapshot(model))


def check_trial(trial: Trial, model: Model, method: Method) -> None:
    """Applied to a copy, the trial's bytes and its weight's error are those of the copy."""
    applied = replace(model, module=copy.deepcopy(model.module), steps=list(model.steps))
    record = apply_trial_(applied, trial)
    assert trial.change is not None and record.error == trial.error and record.bytes_after == trial.bytes_after
    whole, left = (tensor_bytes(unique_tensors(m.module).values()) for m in (model, applied))
    assert left - whole == trial.bytes_after - trial.bytes_before
    compared = trial.weight_error is not None and not trial.change.is_of_tokens
    assert compared == (method.solve is not None and trial.place.fold is None and not trial.change.is_of_tokens)
    if compared:
        assert trial.weight_error == weight_error(*weights_of_both(model, applied, trial))


def weights_of_both(model: Model, applied: Model, trial: Trial) -> tuple[Tensor, Tensor]:
    """The observed weight in both models, (m, n), with zeros where columns were cut; rows that are gone are left out."""
    site, change = trial.place.observed_site, trial.change
    layers: list[Any] = [m.module.get_submodule(site.path) for m in (model, applied)]
    old, new = (layer.weight.detach().float() for layer in layers)
    if change is not None and change.cut is not None:
        label, kept = change.cut.label, change.cut.kept
        if site.output_axis is not None and site.writes_label(label):
            old = old[site.output_axis.kept_entry_indices(kept, label)]
        assert site.input_axis is not None
        whole = torch.zeros_like(old)
        whole[:, site.input_axis.kept_entry_indices(kept, label)] = new
        new = whole
    return old.flatten(1), new.flatten(1)


def check_run(trial: Trial, model: Model, planned: PlannedPlace, edit: Edit, samples: Any) -> None:
    """A plan of this place alone writes the line that the trial foretold."""
    alone = replace(edit, places=(planned,))
    copied = replace(model, module=copy.deepcopy(model.module), steps=list(model.steps))
    plan = Plan(0, Source(model.name, model.family.name, "", 0, 0), Calibration(8, None, (), "modality"), (alone,), 0)
    (record,) = compress_(copied, plan, samples, samples, model)
    assert isinstance(record, PlaceRecord)
    assert replace(record, seconds=0.0) == replace(trial.make_record(), seconds=0.0, notes=record.notes)
    assert set(trial.make_record().notes) <= set(record.notes)

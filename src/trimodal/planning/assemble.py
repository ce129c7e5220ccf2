"""What is asked for becomes a plan: the edits, what they leave, for which model and data, and what they will take."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata

from trimodal.core import Calibration, Edit, Layout, Plan, Sample, SkippedStep, Source
from trimodal.data import batch_samples
from trimodal.errors import RecipeError
from trimodal.graph.fusion_discovery import discover_folds
from trimodal.inventory import Inventory
from trimodal.methods import get_method
from trimodal.models.model import Model
from trimodal.models.tensors import fingerprint_module, tensor_bytes, unique_tensors
from trimodal.planning.cost import Workload, estimate_cost, measure_speed
from trimodal.planning.executable import describe_recomputed, walk_edits
from trimodal.planning.planner import plan_steps
from trimodal.planning.request import Request
from trimodal.planning.samples import SampleSets
from trimodal.planning.target_fit import check_takes_anything, fit_target
from trimodal.planning.untouched import find_untouched

_WATCHED_SAMPLES = 16
_SIZED_SAMPLES = 8
_IMPORT_SECONDS = 5.0  # what a process needs before it can read a model


def make_plan(model: Model, request: Request, samples: SampleSets) -> Plan:
    """The plan for a recipe, or the plan that was given, checked against `model` and reckoned anew. Changes nothing.

    Raises:
        RecipeError: the recipe or plan does not fit the model, or the plan was made for another.
        TargetError: the target that was asked for can take nothing of it.
    """
    source = _describe_source(model)
    if request.plan is not None:
        _check_same_model(request, source)
    edits, skipped, after = _make_edits(_find_layout(model, request, samples), request, bool(samples.calibration))
    fit = None if request.target is None else fit_target(model, after, request.target)
    if fit is not None:
        check_takes_anything(fit)
    saved = sum(place.bytes_before - place.bytes_after for edit in edits for place in edit.places)
    made = Plan(
        seed=request.seed, source=source, calibration=_describe_calibration(request, samples), edits=edits,
        expected_tensor_bytes=source.tensor_bytes - saved, recipe=dict(request.raw), trimodal=metadata.version("trimodal"),
        skipped=skipped, pack=request.pack, untouched=find_untouched(model, edits), target=fit,
    )  # fmt: skip
    return made if request.plan is None else replace(made, recomputed=describe_recomputed(request.plan, made))


def add_estimate(plan: Plan, model: Model, samples: SampleSets, inventory: Inventory, began: float) -> Plan:
    """The plan with what it will take here and now. Another process will read the result, and import what this one has.

    Args:
        plan: as `make_plan` made it.
        model: as it is, for the shapes.
        samples: by use.
        inventory: of the model; its MACs say what a forward pass takes.
        began: when reading the model began, in seconds of `time.perf_counter`.
    """
    reading = min(time.process_time(), time.perf_counter() - began + _IMPORT_SECONDS)
    macs = inventory.macs
    if macs is not None and samples.statistics:
        macs = round(macs * _relative_sample_size(model, samples.statistics[:_SIZED_SAMPLES], inventory.input_shapes))
    work = Workload(len(samples.statistics), len(samples.calibration), len(samples.held_out), macs)
    return replace(plan, estimate=estimate_cost(plan, model.layout, work, reading, measure_speed()))


def _relative_sample_size(model: Model, samples: Sequence[Sample], shapes: Mapping[str, tuple[int, ...]]) -> float:
    """How large `samples` are, one by one, beside the example with `shapes`: sentences are shorter than they could be."""
    batch = batch_samples(model, samples, len(samples))[0]
    known = [name for name in shapes if name in batch]
    usual = sum(math.prod(shapes[name]) for name in known)
    return sum(batch[name].numel() for name in known) / len(samples) / usual if usual else 1.0


def _find_layout(model: Model, request: Request, samples: SampleSets) -> Layout:
    """The model's layout, with what neighbours can take over where a step or edit folds: the model is run for that."""
    methods = [step.method for step in request.recipe.steps] if request.recipe else []
    methods += [get_method(edit.method) for edit in request.plan.edits] if request.plan else []
    if not any(method.on == "fold" for method in methods):
        return model.layout
    few = list(samples.statistics)[:_WATCHED_SAMPLES]
    return discover_folds(model, batch_samples(model, few, _WATCHED_SAMPLES // 4) if few else ())


def _make_edits(layout: Layout, request: Request, data: bool) -> tuple[tuple[Edit, ...], tuple[SkippedStep, ...], Layout]:
    if request.plan is not None:
        edits, after = walk_edits(layout, request.plan.edits, data, request.name)
        return edits, request.plan.skipped, after
    if request.recipe is None:
        raise RecipeError("there is neither a recipe nor a plan to work from")
    return plan_steps(layout, request.recipe, data)


def _check_same_model(request: Request, source: Source) -> None:
    expected = request.plan.source if request.plan else source
    if expected.fingerprint != source.fingerprint:
        raise RecipeError(
            f"{request.name} was made for another model ({expected.name}, fingerprint {expected.fingerprint[:12]}; that of "
            f"{source.name} is {source.fingerprint[:12]}); give that model, or make a new plan: "
            "trimodal plan MODEL --recipe RECIPE -o plan.json"
        )


def _describe_source(model: Model) -> Source:
    parameters = sum(p.numel() for p in model.module.parameters())
    total = tensor_bytes(unique_tensors(model.module).values())
    return Source(model.name, model.family.name, fingerprint_module(model.module), parameters, total)


def _describe_calibration(request: Request, samples: SampleSets) -> Calibration:
    modalities = {m for sample in samples.statistics for m in sample.modalities}
    return Calibration(len(samples.statistics), samples.sha256, tuple(sorted(modalities)), request.balance)

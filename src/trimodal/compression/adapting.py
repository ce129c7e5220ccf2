"""Edits that train something at their places: what each place begins with is found block by block, then all are trained at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from trimodal.compression.solve_context import SolveContext, Task, make_tasks
from trimodal.compression.training_steps import Trainer
from trimodal.compression.trial import Trial, apply_trial_, decline_place
from trimodal.core import Edit, FitRecord, Place, PlaceRecord
from trimodal.methods.method import Adaptation, AdaptedPlace
from trimodal.models.model import Model

_UNMEASURED = "it was trained together with other places; see the losses"


def adapt_edit_(context: SolveContext, trainer: Trainer, number: int, edit: Edit) -> Iterator[FitRecord | PlaceRecord]:
    """Carry out edit `number`, which adapts: a record per step, and one per place."""
    pairs = [(task, context.find_place(task)) for task in make_tasks(number, edit)]
    refused = {place.name: reason for task, place in pairs if (reason := task.method.refuse(place, task.config))}
    taken = [(task, place) for task, place in pairs if place.name not in refused]
    found = Adaptation((), {}, {})
    if taken:
        adapted = list(_begin_places(context, trainer, taken))
        found = trainer.adapt_places_(number, edit, adapted)
        yield from found.records
    for task, place in pairs:
        yield apply_trial_(context.model, _make_trial(task, place, found, refused))


def _begin_places(context: SolveContext, trainer: Trainer, pairs: list[tuple[Task, Place]]) -> Iterator[AdaptedPlace]:
    for problem in context.iterate_problems(pairs, "inputs of", trainer.log.report):
        task, place = problem.task, problem.place
        weights = {**problem.weights, **_read_original(trainer.teacher, context.model, place)}
        adapting = task.method.adapt
        assert adapting is not None  # the edit adapts
        with torch.no_grad():
            yield AdaptedPlace(place, task.config, adapting.begin(place, weights, problem.statistic, task.config))


def _read_original(teacher: Model | None, model: Model, place: Place) -> Mapping[str, Tensor]:
    """The weights float32 that the place's layers had in the model as it was, by `path.original`, where they were there."""
    found: dict[str, Tensor] = {}
    if teacher is None:
        return found
    modules: dict[str, Any] = dict(teacher.module.named_modules())
    for site in place.sites:
        weight = getattr(modules.get(model.layout.find_original_path(teacher.layout, site.path)), "weight", None)
        if isinstance(weight, Tensor):
            found[f"{site.path}.original"] = weight.detach().float()
    return found


def _make_trial(task: Task, place: Place, found: Adaptation, refused: Mapping[str, str]) -> Trial:
    reason = refused.get(place.name) or found.declined.get(place.name)
    if reason is not None:
        return decline_place(task, place, reason)
    change, after = found.changes[place.name], tuple(task.method.forecast(place, task.config))
    return Trial(
        task, place, change, after, {}, None, place.bytes_with(after), {}, 0.0, notes=change.notes, unmeasured=_UNMEASURED,
    )  # fmt: skip

"""The loop: carry out a plan.

For each stage: observe, try, apply and write a line, place after place, block by block in running order, so that each block
is calibrated on what it will really get. What is done together says `stages.py`, what a method is given `solve_context.py`,
how a change is found, measured and applied `trial.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from trimodal.compression.activations import Activations
from trimodal.compression.adapting import adapt_edit_
from trimodal.compression.allocation import allocate_sparsity
from trimodal.compression.batches import make_sized_batches
from trimodal.compression.codebooks import assign_shared_tables
from trimodal.compression.progress import Progress, RunLog, count_steps
from trimodal.compression.sensitivity import gradient_sizes
from trimodal.compression.shared_inputs import share_inputs_
from trimodal.compression.solve_context import SolveContext, Task, make_tasks
from trimodal.compression.stages import split_blocks, split_rounds, split_stages
from trimodal.compression.training_steps import Trainer
from trimodal.compression.trial import apply_trial_, try_task
from trimodal.core import FitRecord, Layout, PlaceRecord, Plan, Sample
from trimodal.methods import get_method
from trimodal.models.model import Model

_Sizes = Mapping[str, Mapping[str, float]]


def compress_(
    model: Model,
    plan: Plan,
    statistics_samples: Sequence[Sample],
    samples: Sequence[Sample],
    teacher: Model | None = None,
    progress: Progress = lambda what, done, total: None,
) -> list[PlaceRecord | FitRecord]:
    """Carry out `plan` on `model`, in place.

    Args:
        model: what the plan was made for.
        plan: as `planning` made it.
        statistics_samples: calibration samples that statistics are taken from.
        samples: all calibration samples; gradient methods train on them.
        teacher: the model as it was, for gradient methods.
        progress: called with what is going on, places or steps done, and how many there are.
    """
    torch.manual_seed(plan.seed)
    log, began = RunLog(progress, count_steps(plan)), model.layout
    calibration, balance = make_sized_batches(model, statistics_samples), plan.calibration.balance
    original = None if teacher is None else Activations(teacher, calibration)
    sizes: _Sizes = {}
    if balance == "gradient" and teacher is not None:
        sizes = gradient_sizes(teacher, calibration, plan.seed)
    trainer = Trainer(model, teacher, samples, plan.seed, log)
    for stage in split_stages(plan.edits, began):
        number, edit = stage[0]
        used = get_method(edit.method)
        if used.fit is not None:
            log.records.extend(trainer.train_edit_(number, edit))
            continue
        tasks = [task for numbered in stage for task in make_tasks(*numbered)]
        now = _relocate_sizes(sizes, began, model.layout)
        activations = Activations(model, calibration, original)
        context = SolveContext(model, activations, tasks, statistics_samples, plan.seed, balance, now)  # type: ignore[arg-type]
        if used.adapt is not None:
            log.records.extend(adapt_edit_(context, trainer, number, edit))
            continue
        _sweep_blocks(context, log)
    return log.records


def _sweep_blocks(context: SolveContext, log: RunLog) -> None:
    """All tasks of `context`, block by block in running order."""
    tasks = assign_shared_tables(context, allocate_sparsity(context, log.report), log.report)
    for block in split_blocks(tasks, context.model.layout):
        for round_ in split_rounds(block):
            _run_round(context, round_, log)


def _run_round(context: SolveContext, tasks: Sequence[Task], log: RunLog) -> None:
    """Tasks of one block that do not touch each other's sites: observed at once, then tried and applied one by one."""
    places = [context.find_place(task) for task in tasks]
    seen = context.observe_places(tasks, places)
    tasks, seen = share_inputs_(context, tasks, places, seen)
    for task in tasks:
        log.report(f"{task.method.name} {task.planned.name}")
        trial = try_task(context, task, seen)
        log.records.append(apply_trial_(context.model, trial))
    structural = (place.label is not None or place.fold is not None or place.whole_tower is not None for place in places)
    if any(one and place.spans_blocks for one, place in zip(structural, places, strict=True)):
        context.activations.clear_cache_()  # what blocks give to each other has other shapes now


def _relocate_sizes(sizes: _Sizes, began: Layout, now: Layout) -> _Sizes:
    """`sizes` by path in the layout `began`, by path in the layout `now`: blocks may have gone since."""
    return {site.path: sizes[before] for site in now.sites if (before := now.find_original_path(began, site.path)) in sizes}

"""The loop: carry out a plan.

Consecutive solving edits make one sweep over the model in running order. A gradient edit stands by itself, and each
further one sees the data in another order; so does an edit whose method surveys whole towers. An edit whose places are
ranked together, or share a table, begins a new sweep, before which it is settled how much goes where, or which numbers are
shared; and so does one with a place in several blocks that earlier edits change, since these must be done in all of them.
In a sweep,
for each block: take its places; in each round observe what their methods want, then solve, apply and write a line per
place. A new round begins where a place touches a site that this block's earlier rounds have changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from trimodal.compression.activations import Activations
from trimodal.compression.allocation import allocate_sparsity, is_ranked
from trimodal.compression.codebooks import assign_shared_tables, has_shared_tables
from trimodal.compression.errors import COUNTED, explain_unmeasured, list_weight_paths, place_errors, worst_by_modality
from trimodal.compression.sensitivity import gradient_sizes
from trimodal.compression.solve_context import SeenAt, SolveContext, Task, find_number_overflow, make_tasks, weights_of
from trimodal.core import Change, Edit, FitRecord, Layout, Place, PlaceRecord, Plan, Sample, Site
from trimodal.data import CALIBRATION, CALIBRATION_BYTES, fit_batch_size
from trimodal.data import batch_samples as make_batches
from trimodal.edits.apply import apply_change_
from trimodal.edits.folding import collect_fold_tensors
from trimodal.errors import TrimodalError, UnreachedError
from trimodal.maths.error import weight_error
from trimodal.methods import get_method
from trimodal.methods.options import build_config
from trimodal.models.model import Batch, Model
from trimodal.statistics import Statistic, WeightGradient, mix_moments

LEFT_ALONE = "left alone: "
Progress = Callable[[str, int, int], None]
_Numbered = tuple[int, Edit]
_Sizes = Mapping[str, Mapping[str, float]]


@dataclass
class _CompressionRun:
    """What the loop carries along."""

    model: Model
    progress: Progress
    total: int
    records: list[PlaceRecord | FitRecord] = field(default_factory=list)
    training: tuple[int, Sequence[Batch]] | None = None

    def report_progress(self, what: str, ahead: int = 0) -> None:
        """Say what is going on; `ahead` steps are done of which there is no record yet."""
        self.progress(what, min(self.total, len(self.records) + ahead), self.total)


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
    run = _CompressionRun(model, progress, sum(len(edit.places) or int(edit.config.get("steps", 0)) for edit in plan.edits))
    calibration, balance = _make_sized_batches(model, statistics_samples), plan.calibration.balance
    began = model.layout
    sizes: _Sizes = {}
    if balance == "gradient" and teacher is not None:
        sizes = gradient_sizes(teacher, calibration, plan.seed)
    original = None if teacher is None else Activations(teacher, calibration)
    trainings = 0
    for stage in _split_stages(plan.edits, began):
        number, edit = stage[0]
        if get_method(edit.method).fit is not None:
            _fit_edit(run, number, edit, teacher, samples, (plan.seed + trainings) % 2**63)
            trainings += 1
            continue
        tasks = [task for numbered in stage for task in make_tasks(*numbered)]
        now = _relocate_sizes(sizes, began, model.layout)
        given = SolveContext(model, Activations(model, calibration, original), tasks, statistics_samples, plan.seed, balance, now)  # type: ignore[arg-type]
        if get_method(edit.method).survey is not None:
            _survey_towers(run, given, calibration)
        else:
            _sweep_blocks(run, given)
    return run.records


def _split_stages(edits: Sequence[Edit], layout: Layout) -> Iterator[list[_Numbered]]:
    """What is carried out together: an edit that trains or surveys by itself, solving edits up to the next that is ranked,
    shares a table, or has to wait for them."""
    stage: list[_Numbered] = []
    for number, edit in enumerate(edits):
        alone = get_method(edit.method).solve is None
        new = alone or is_ranked(edit) or has_shared_tables(edit)
        if stage and (new or get_method(stage[0][1].method).solve is None or _must_wait(edit, stage, layout)):
            yield stage
            stage = []
        stage.append((number, edit))
    if stage:
        yield stage


def _must_wait(edit: Edit, stage: Sequence[_Numbered], layout: Layout) -> bool:
    """Whether a place of `edit` lies in several blocks and edits of the `stage` work on a part of it."""
    blocks = [f"{block}." for tower in layout.towers for block in tower.blocks]
    far = [
        place.paths
        for place in edit.places
        if len({next((b for b in blocks if f"{path}.".startswith(b)), "") for path in place.paths}) > 1
    ]
    changed = {path for _, earlier in stage for place in earlier.places for path in place.paths} if far else set()
    return any(_is_inside(path, changed) for paths in far for path in paths)


def _make_sized_batches(model: Model, samples: Sequence[Sample]) -> Sequence[Batch]:
    """The samples in batches within the limits of calibration. The longest of all decides, so each is encoded once to see."""
    if not samples:
        return []
    found = make_batches(model, samples, CALIBRATION.samples, kept_bytes=CALIBRATION_BYTES)
    size = fit_batch_size(model, found, CALIBRATION)
    return found if size == CALIBRATION.samples else make_batches(model, samples, size, kept_bytes=CALIBRATION_BYTES)


def _fit_edit(run: _CompressionRun, number: int, edit: Edit, teacher: Model | None, samples: Sequence[Sample], seed: int) -> None:
    used = get_method(edit.method)
    if used.fit is None or teacher is None:
        raise TrimodalError(f"step {number + 1} ({edit.method}) was given no original model to learn from")
    config = build_config(used.config, edit.config, edit.method)

    def data(size: int) -> Sequence[Batch]:
        if run.training is None or run.training[0] != size:
            run.training = size, make_batches(run.model, samples, size)
        return _CountedBatches(run.training[1], lambda step: run.report_progress(f"{edit.method}, step {step}", ahead=step))

    run.report_progress(edit.method)
    run.records.extend(replace(r, edit=number) for r in used.fit(run.model, teacher, data, config, seed))


class _CountedBatches(Sequence[Batch]):
    """Batches that tell how many were taken, which is how far a training is."""

    def __init__(self, batches: Sequence[Batch], tell: Callable[[int], None]) -> None:
        self._batches, self._tell, self._taken = batches, tell, 0

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        self._taken += 1
        self._tell(self._taken)
        return self._batches[index]


def _relocate_sizes(sizes: _Sizes, began: Layout, now: Layout) -> _Sizes:
    """`sizes` by path in the layout `began`, by path in the layout `now`: blocks may have gone since."""
    return {site.path: sizes[before] for site in now.sites if (before := now.find_original_path(began, site.path)) in sizes}


def _survey_towers(run: _CompressionRun, given: SolveContext, batches: Sequence[Batch]) -> None:
    """The towers of an edit, one after the other."""
    for task in given.tasks:
        start, place = time.perf_counter(), given.find_place(task)
        run.report_progress(f"{task.method.name} {place.name}")
        if task.method.survey is None:
            raise TrimodalError(f"{task.method.name} cannot survey {place.name}")
        run.model.module.eval()
        sizes = next((given.sizes[site.path] for site in place.sites if site.path in given.sizes), None)
        record = PlaceRecord(
            edit=task.edit, method=task.method.name, place=place.name, tower=place.tower, block=None,
            bytes_before=place.stored_bytes, bytes_after=place.stored_bytes, error={}, weight_error=None, tokens={}, seconds=0.0,
        )  # fmt: skip
        try:
            with torch.no_grad():
                change = task.method.survey(
                    run.model, place, batches, partial(mix_moments, balance=given.balance, gradients=sizes), task.config
                )
        except UnreachedError as error:
            run.records.append(_record_declined(record, str(error)))
            continue
        after = _forecast_survey(place, change, task.method.forecast(place, task.config))
        said = apply_change_(run.model, place, change, after)
        run.records.append(replace(
            record, bytes_after=place.bytes_with(after), error=dict(change.error or {}), seconds=time.perf_counter() - start,
            notes=(*change.notes, *said), unmeasured="" if change.error else explain_unmeasured(place, bool(batches)),
        ))  # fmt: skip


def _forecast_survey(place: Place, change: Change, forecast: Sequence[Site]) -> Sequence[Site]:
    """The sites of a tower after `change`: of blocks that an earlier step has made unlike, it matters which stay."""
    if change.drop is None or place.whole_tower is None:
        return forecast
    return Layout((place.whole_tower,), place.sites).drop_blocks(change.drop.tower, change.drop.kept).sites


def _sweep_blocks(run: _CompressionRun, given: SolveContext) -> None:
    """All tasks that are `given` something, block by block in running order."""
    tasks = assign_shared_tables(given, allocate_sparsity(given, run.report_progress), run.report_progress)
    for task in (task for task in tasks if not task.planned.paths):
        run.records.append(_fold_place(run.model, task, given.find_place(task)))
    order = {site.path: (site.tower, site.block) for site in run.model.layout.sites}
    for _, paths in groupby(order, key=lambda path: order[path]):
        here = set(paths)
        block = [task for task in tasks if any(_is_inside(path, here) for path in task.planned.paths)]
        tasks = [task for task in tasks if task not in block]
        for tasks_of_round in _split_rounds(block):
            _run_round(run, tasks_of_round, given)


def _is_inside(path: str, paths: set[str]) -> bool:
    """Whether `path` is one of `paths` or a part of one (a factor of a factorised layer)."""
    return any(path == p or path.startswith(f"{p}.") for p in paths)


def _split_rounds(tasks: list[Task]) -> Iterator[list[Task]]:
    """Split the tasks, in order, where one touches what an earlier one has changed."""
    current: list[Task] = []
    touched: set[str] = set()
    for task in tasks:
        if any(_is_inside(path, touched) for path in task.planned.paths):
            yield current
            current, touched = [], set()
        current.append(task)
        touched.update(task.planned.paths)
    if current:
        yield current


def _run_round(run: _CompressionRun, tasks: list[Task], given: SolveContext) -> None:
    places = [given.find_place(task) for task in tasks]
    seen = given.observe_places(tasks, places)
    for task in tasks:
        place = given.find_place(task)  # a fold before it may have settled that its stream keeps its width
        run.report_progress(f"{task.method.name} {place.name}")
        if place.fold is not None:
            run.records.append(_fold_place(run.model, task, place))
        else:
            run.records.append(_solve_task(run.model, task, place, given, seen))
    if any((place.label is not None or place.fold is not None) and place.spans_blocks for place in places):
        given.activations.clear_cache_()  # what blocks give to each other has other shapes now


def _solve_task(model: Model, task: Task, place: Place, given: SolveContext, everything: SeenAt) -> PlaceRecord:
    """Observe is done; solve, apply, and say what happened at one place."""
    start, seen = time.perf_counter(), everything.get(place.observed_site.path, {})
    record = PlaceRecord(
        edit=task.edit, method=task.method.name, place=place.name, tower=place.tower, block=place.block,
        bytes_before=place.stored_bytes, bytes_after=place.stored_bytes, error={}, weight_error=0.0, tokens={}, seconds=0.0,
    )  # fmt: skip
    reason = task.method.refuse(place, task.config) if task.planned.certainty != "exact" else None
    if reason is not None:  # planning could only guess what an earlier step leaves here
        return _record_declined(record, reason)
    if task.method.solve is None:
        raise TrimodalError(f"{task.method.name} has nothing to solve at {place.name}")
    weights = {} if place.whole_tower is not None else weights_of(model, place)
    reason = find_number_overflow(place, weights)
    if reason is not None:
        return _record_declined(record, reason)
    try:
        statistic = given.select_statistic(task, place, seen)
    except UnreachedError as error:
        return _record_declined(record, str(error))
    lacking = statistic is None and task.method.wants(place, task.config) is not None
    change = task.method.solve(place, {**weights, **task.shared_codebook}, statistic, task.config)
    after = task.method.forecast(place, replace(task.config, **change.settled) if change.settled else task.config)
    said = apply_change_(model, place, change, after)
    errors, changed = change.error, 0.0
    if change.merge is None:
        old, new, bias_change = _weights_before_and_after(model, place, change, weights)
        changed = weight_error(old, new)
        if errors is None:
            errors = worst_by_modality(place_errors(old, new, bias_change, everything.get(p, {})) for p in list_weight_paths(place.observed_site))
    without = f"without data: {task.method.without_data}" if lacking else ""
    unreached = _describe_unreached(statistic, place.observed_site)
    return replace(
        record, bytes_after=sum(s.stored_bytes for s in after), error=dict(errors or {}), weight_error=changed,
        tokens={n: part.tokens for n, part in seen.items() if isinstance(part, COUNTED)}, seconds=time.perf_counter() - start,
        notes=tuple(note for note in (task.note, *change.notes, *said, without, unreached) if note),
        unmeasured="" if errors else explain_unmeasured(place, bool(given.activations.batches)),
    )  # fmt: skip


def _record_declined(record: PlaceRecord, reason: str) -> PlaceRecord:
    """The record of a place where nothing was done: its bytes and its weights are what they were."""
    return replace(
        record, bytes_after=record.bytes_before, notes=(f"{LEFT_ALONE}{reason}",), unmeasured="it was left as it is"
    )


def _describe_unreached(statistic: Statistic | None, site: Site) -> str:
    """How much of what a method was told had to be assumed, since no calibration token reached it; empty if nothing."""
    assumed = getattr(statistic, "assumed", 0)
    if isinstance(statistic, WeightGradient):
        return f"{assumed:,} of {site.rows * site.columns:,} weights got no gradient from any sample" if assumed else ""
    return f"{assumed:,} of {site.columns:,} columns were reached by no calibration token" if assumed else ""


def _fold_place(model: Model, task: Task, place: Place) -> PlaceRecord:
    """Fold one place. The error is what was measured when it was found; weights before and after cannot be compared."""
    start = time.perf_counter()
    if task.method.solve is None or place.fold is None:
        raise TrimodalError(f"{task.method.name} at {place.name} has nothing to fold")
    after = task.method.forecast(place, task.config)
    change = task.method.solve(place, collect_fold_tensors(model.module, place.fold), None, task.config)
    apply_change_(model, place, change, after)
    return PlaceRecord(
        edit=task.edit, method=task.method.name, place=place.name, tower=place.tower, block=place.block,
        bytes_before=place.stored_bytes, bytes_after=sum(s.stored_bytes for s in after), error=dict(change.error or {}),
        weight_error=None, tokens={}, seconds=time.perf_counter() - start, notes=change.notes,
        unmeasured="" if change.error else "it was folded where the model could not be run",
    )  # fmt: skip


def _weights_before_and_after(
    model: Model, place: Place, change: Change, weights: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The observed weight before and after (m, n), with zeros where columns were cut, and b − b̂ (m,).

    Of a layer that loses rows too (a recurrent one reads its own units) only the rows that stay are compared.
    """
    path = place.observed_site.path
    old, old_bias = weights[f"{path}.weight"], weights.get(f"{path}.bias")
    layer = model.module.get_submodule(path)
    new: Any = layer.weight.detach().float()  # type: ignore[union-attr, operator]
    axis = place.observed_site.input_axis
    out = place.observed_site.output_axis
    if change.cut is not None and out is not None and place.observed_site.writes_label(change.cut.label):
        rows = out.kept_entry_indices(change.cut.kept, change.cut.label)
        old, old_bias = old[rows], None if old_bias is None else old_bias[rows]
    if change.cut is not None and axis is not None:
        whole = torch.zeros_like(old)
        whole[:, axis.kept_entry_indices(change.cut.kept, change.cut.label)] = new
        new = whole
    new_bias = getattr(layer, "bias", None)
    bias_change = None if old_bias is None or new_bias is None else old_bias - new_bias.detach().float()
    return old.flatten(1), new.flatten(1), bias_change

"""The loop: carry out a plan.

Consecutive solving edits make one sweep over the model in running order; a gradient edit stands by itself, and each
further one sees the data in another order. In a sweep,
for each block: take its places; in each round observe what their methods want, then solve, apply and write a line per
place. A new round begins where a place touches a site that this block's earlier rounds have changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from trimodal.compression.blocks import Activations
from trimodal.compression.sensitivity import gradient_sizes, weight_gradients
from trimodal.core import Change, Edit, FitRecord, Place, PlaceRecord, Plan, PlannedPlace, Sample, Site
from trimodal.data import batches as make_batches
from trimodal.errors import TrimodalError
from trimodal.layers import Sparse
from trimodal.maths.error import output_error, weight_error
from trimodal.methods import Method, method
from trimodal.methods.options import build
from trimodal.models.apply import apply_
from trimodal.models.folding import tensors_at
from trimodal.models.model import Batch, Model
from trimodal.planning import place_of
from trimodal.statistics import Balance, Gradient, Moment, Statistic, StatisticKind, mixed

BATCH_SIZE, BATCH_TOKENS = 32, 2048
GRADIENT_SAMPLES = 64
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Task:
    """One place of one edit."""

    edit: int
    method: Method
    config: Any
    planned: PlannedPlace


@dataclass
class _Run:
    """What the loop carries along."""

    model: Model
    balance: Balance
    progress: Progress
    samples: Sequence[Sample]
    seed: int
    gradients: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    weight_gradients: Mapping[str, Gradient] = field(default_factory=dict)
    tasks: Sequence[_Task] = ()
    records: list[PlaceRecord | FitRecord] = field(default_factory=list)
    training: tuple[int, Sequence[Batch]] | None = None
    total: int = 0


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
    run = _Run(model, plan.calibration.balance, progress, statistics_samples, plan.seed)  # type: ignore[arg-type]
    run.total = sum(len(edit.places) for edit in plan.edits)
    calibration = _batches(model, statistics_samples)
    if run.balance == "gradient" and teacher is not None:
        run.gradients = gradient_sizes(teacher, calibration, plan.seed)
    original = None if teacher is None else Activations(teacher, calibration)
    trainings = 0
    for gradient, edits in groupby(enumerate(plan.edits), key=lambda pair: method(pair[1].method).fit is not None):
        if gradient:
            for number, edit in edits:
                _fit(run, number, edit, teacher, samples, (plan.seed + trainings) % 2**63)
                trainings += 1
        else:
            _sweep(run, list(edits), Activations(model, calibration, original))
    return run.records


def _batches(model: Model, samples: Sequence[Sample]) -> Sequence[Batch]:
    """The samples in batches of at most 32, fewer where a batch would have more than 2,048 tokens: products are no faster
    beyond that, and what layers give to each other stays small."""
    if not samples:
        return []
    found = make_batches(model, samples, BATCH_SIZE)
    tokens = (codes.shape[1] for batch in found for codes in model.family.tokens(model.module, batch).values())
    longest = max(tokens, default=0)
    if longest * BATCH_SIZE <= BATCH_TOKENS:
        return found
    return make_batches(model, samples, max(1, BATCH_TOKENS // longest))


def _fit(run: _Run, number: int, edit: Edit, teacher: Model | None, samples: Sequence[Sample], seed: int) -> None:
    used = method(edit.method)
    if used.fit is None or teacher is None:
        raise TrimodalError(f"step {number + 1} ({edit.method}) was given no original model to learn from")
    config = build(used.config, edit.config, edit.method)

    def data(size: int) -> Sequence[Batch]:
        if run.training is None or run.training[0] != size:
            run.training = size, make_batches(run.model, samples, size)
        return run.training[1]

    run.progress(edit.method, len(run.records), run.total)
    run.records.extend(replace(r, edit=number) for r in used.fit(run.model, teacher, data, config, seed))


def _sweep(run: _Run, edits: list[tuple[int, Edit]], activations: Activations) -> None:
    """All places of `edits`, block by block in running order."""
    tasks = [
        _task(number, edit, planned)
        for number, edit in edits
        for planned in edit.places
    ]
    for task in (task for task in tasks if not task.planned.paths):
        run.records.append(_folded(run, task, place_of(run.model.layout, task.method, task.planned)))
    run.tasks, run.weight_gradients = tasks, {}
    order = {site.path: (site.tower, site.block) for site in run.model.layout.sites}
    for _, paths in groupby(order, key=lambda path: order[path]):
        here = set(paths)
        block = [task for task in tasks if any(_inside(path, here) for path in task.planned.paths)]
        tasks = [task for task in tasks if task not in block]
        for tasks_of_round in _rounds(block):
            _round(run, tasks_of_round, activations)


def _task(number: int, edit: Edit, planned: PlannedPlace) -> _Task:
    used = method(edit.method)
    return _Task(number, used, build(used.config, {**edit.config, **planned.config}, edit.method), planned)


def _inside(path: str, paths: set[str]) -> bool:
    """Whether `path` is one of `paths` or a part of one (a factor of a factorised layer)."""
    return any(path == p or path.startswith(f"{p}.") for p in paths)


def _rounds(tasks: list[_Task]) -> Iterator[list[_Task]]:
    """Split the tasks, in order, where one touches what an earlier one has changed."""
    current: list[_Task] = []
    touched: set[str] = set()
    for task in tasks:
        if any(_inside(path, touched) for path in task.planned.paths):
            yield current
            current, touched = [], set()
        current.append(task)
        touched.update(task.planned.paths)
    if current:
        yield current


def _round(run: _Run, tasks: list[_Task], activations: Activations) -> None:
    places = [place_of(run.model.layout, task.method, task.planned) for task in tasks]
    wants = _wants(tasks, places, bool(activations.batches))
    seen: dict[str, dict[str, Statistic]] = {}
    observed = [place.observed for place in places if place.observed.path in wants]
    for _, sites in groupby(sorted(observed, key=_position), key=_position):
        seen |= activations.observe(list(sites), wants)
    for task, place in zip(tasks, places, strict=True):
        run.progress(f"{task.method.name} {place.name}", len(run.records), run.total)
        if place.fold is not None:
            run.records.append(_folded(run, task, place))
        else:
            run.records.append(_one(run, task, place, seen.get(place.observed.path, {})))
    if any((place.label is not None or place.fold is not None) and place.far for place in places):
        activations.forget()  # what blocks give to each other has other shapes now


def _position(site: Site) -> tuple[str, int]:
    return site.tower, -1 if site.block is None else site.block


def _gradient(run: _Run, place: Place) -> Gradient | None:
    """The gradient of the place's observed weight. Where it is not known, or is of a weight that was cut since, it is
    taken for all plain weights that this sweep ranks so, at the model as it is now."""
    path, shape = place.observed.path, (place.observed.rows, place.observed.columns)
    known = run.weight_gradients.get(path)
    if known is None or (known.rows, known.columns) != shape:
        layout = run.model.layout
        plain = {site.path for site in layout.sites if site.stored == "dense"}
        tasks = [task for task in run.tasks if plain.issuperset(task.planned.paths)]
        places = [(task, place_of(layout, task.method, task.planned)) for task in tasks]
        paths = [p.observed.path for task, p in places if task.method.wants(p, task.config) == "gradient"]
        samples = run.samples[:: -(-len(run.samples) // GRADIENT_SAMPLES)] if run.samples else ()
        examples = ((sample, batch) for sample in samples for batch in make_batches(run.model, [sample], 1))
        run.weight_gradients = weight_gradients(run.model, examples, dict.fromkeys(paths), run.seed)
    return run.weight_gradients.get(path)


def _wants(tasks: list[_Task], places: list[Place], data: bool) -> dict[str, StatisticKind]:
    """What to observe per path. With data at hand every weight's output error is measured, asked for or not."""
    wants: dict[str, StatisticKind] = {}
    for task, place in zip(tasks, places, strict=True):
        site = place.observed
        if data and place.whole is None and place.fold is None and site.kind in ("linear", "conv") and site.groups == 1:
            wanted = task.method.wants(place, task.config)
            wants[site.path] = "moment" if wanted in (None, "norm", "gradient") else wanted
    return wants


def _one(run: _Run, task: _Task, place: Place, seen: Mapping[str, Statistic]) -> PlaceRecord:
    """Observe is done; solve, apply, and say what happened at one place."""
    start = time.perf_counter()
    model, site = run.model, place.observed
    weights = {} if place.whole is not None else _weights(model, place)
    moments = {name: part for name, part in seen.items() if isinstance(part, Moment)}
    wanted = task.method.wants(place, task.config)
    statistic: Statistic | None = None
    if wanted == "gradient":
        statistic = _gradient(run, place)
    elif moments:
        statistic = mixed(moments, run.balance, run.gradients.get(site.path))
    lacking = wanted is not None and statistic is None
    if task.method.solve is None or (lacking and (run.samples or not task.method.without_data)):
        raise TrimodalError(
            f"{task.method.name} at {place.name}: no calibration sample ran through it; give data that uses the {site.tower} tower"
        )
    change = task.method.solve(place, weights, statistic if wanted is not None else None, task.config)
    after = task.method.forecast(place, task.config)
    apply_(model, place, change, after)
    error, changed = change.error, 0.0
    if change.merge is None:
        old, new, bias_change = _before_and_after(model, place, change, weights)
        changed = weight_error(old, new)
        if error is None:
            error = {n: output_error(old, new, m.second, m.mean, bias_change) for n, m in moments.items()}
    return PlaceRecord(
        edit=task.edit, method=task.method.name, place=place.name, tower=place.tower, block=place.block,
        bytes_before=place.stored_bytes, bytes_after=sum(s.stored_bytes for s in after),
        error=dict(error or {}),
        weight_error=changed, tokens={n: part.tokens for n, part in moments.items()},
        seconds=time.perf_counter() - start,
        notes=(*change.notes, *((f"without data: {task.method.without_data}",) if lacking else ())),
    )  # fmt: skip


def _folded(run: _Run, task: _Task, place: Place) -> PlaceRecord:
    """Fold one place. The error is what was measured when it was found; weights before and after cannot be compared."""
    start = time.perf_counter()
    if task.method.solve is None or place.fold is None:
        raise TrimodalError(f"{task.method.name} at {place.name} has nothing to fold")
    after = task.method.forecast(place, task.config)
    change = task.method.solve(place, tensors_at(run.model.module, place.fold), None, task.config)
    apply_(run.model, place, change, after)
    return PlaceRecord(
        edit=task.edit, method=task.method.name, place=place.name, tower=place.tower, block=place.block,
        bytes_before=place.stored_bytes, bytes_after=sum(s.stored_bytes for s in after), error=dict(change.error or {}),
        weight_error=None, tokens={}, seconds=time.perf_counter() - start, notes=change.notes,
    )  # fmt: skip


def _weights(model: Model, place: Place) -> dict[str, Tensor]:
    """Weight and bias of every site of the place, in float32, and the mask of what is pruned."""
    found = {}
    for site in place.sites:
        layer = model.module.get_submodule(site.path)
        for name in ("weight", "bias"):
            tensor = getattr(layer, name, None)
            if isinstance(tensor, Tensor):
                found[f"{site.path}.{name}"] = tensor.detach().float()
        if isinstance(stored := getattr(layer, "stored", None), Sparse):
            found[f"{site.path}.mask"] = stored.kept
    return found


def _before_and_after(
    model: Model, place: Place, change: Change, weights: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The observed weight before and after (m, n), with zeros where columns were cut, and b − b̂ (m,).

    Of a layer that loses rows too (a recurrent one reads its own units) only the rows that stay are compared.
    """
    path = place.observed.path
    old, old_bias = weights[f"{path}.weight"], weights.get(f"{path}.bias")
    layer = model.module.get_submodule(path)
    new: Any = layer.weight.detach().float()  # type: ignore[union-attr, operator]
    axis = place.observed.input_axis
    out = place.observed.output_axis
    if change.cut is not None and out is not None and place.observed.writes(change.cut.label):
        rows = out.staying(change.cut.kept, change.cut.label)
        old, old_bias = old[rows], None if old_bias is None else old_bias[rows]
    if change.cut is not None and axis is not None:
        whole = torch.zeros_like(old)
        whole[:, axis.staying(change.cut.kept, change.cut.label)] = new
        new = whole
    new_bias = getattr(layer, "bias", None)
    bias_change = None if old_bias is None or new_bias is None else old_bias - new_bias.detach().float()
    return old.flatten(1), new.flatten(1), bias_change

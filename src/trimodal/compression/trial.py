"""Try, then apply: what one option would do at one place, and doing it.

`try_task` solves and measures beside the model, which stays as it was to the byte; `apply_trial_` carries out what was
tried and writes the record. Compressing is both, place after place; whoever searches tries several and applies one, or none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from trimodal.compression.changed_weight import compare_weights
from trimodal.compression.errors import (
    COUNTED,
    NO_WEIGHTS,
    explain_unmeasured,
    list_weight_paths,
    place_errors,
    worst_by_modality,
)
from trimodal.compression.solve_context import Problem, SeenAt, SolveContext, Task, find_number_overflow, keep_modes
from trimodal.core import Change, Layout, Place, PlaceRecord, Site
from trimodal.core.record import LEFT_ALONE
from trimodal.edits.apply import apply_change_
from trimodal.errors import TrimodalError, UnreachedError
from trimodal.maths.error import weight_error
from trimodal.models.model import Model
from trimodal.statistics import GroupedMoment, Statistic, WeightGradient, mix_moments

_NAMED = 12  # experts in one note


@dataclass(frozen=True)
class Trial:
    """What one option would do at one place of the model as it stands.

    Attributes:
        task: the place as it was asked for, the method and its options.
        place: the place as it stands in the model.
        change: what the method found, ready to be applied; None where the place is `declined`.
        after: the place's sites as they would stand, with shapes and stored bytes.
        error: relative squared output error E‖Δy‖²/E‖Wx‖² on the calibration tokens, by modality; empty where it is not known.
        weight_error: ‖ΔW‖²/‖W‖² of the observed weight, None where there is none to compare.
        bytes_after: bytes of the place once it is applied.
        tokens: how many calibration tokens the error rests on, by modality.
        seconds: what solving and measuring took.
        notes: what the method says; `caveats` what it had to assume or do without.
        unmeasured: why `error` is empty.
        declined: why nothing would be done here; empty if something would.
        experts: how many calibration tokens came to each of fused experts; empty for other layers.
    """

    task: Task
    place: Place
    change: Change | None
    after: tuple[Site, ...]
    error: Mapping[str, float]
    weight_error: float | None
    bytes_after: int
    tokens: Mapping[str, int]
    seconds: float
    notes: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    unmeasured: str = ""
    declined: str = ""
    experts: tuple[int, ...] = ()

    @property
    def bytes_before(self) -> int:
        """Bytes of the place as it is."""
        return self.place.stored_bytes

    def make_record(self, said: Sequence[str] = (), seconds: float = 0.0) -> PlaceRecord:
        """The line for the record; applying it `said` something and took `seconds` more."""
        place, task = self.place, self.task
        return PlaceRecord(
            edit=task.edit, method=task.method.name, place=place.name, tower=place.tower,
            block=None if task.method.survey is not None else place.block,
            bytes_before=self.bytes_before, bytes_after=self.bytes_after, error=dict(self.error), weight_error=self.weight_error,
            tokens=dict(self.tokens), seconds=self.seconds + seconds, unmeasured=self.unmeasured, experts=self.experts,
            notes=(f"{LEFT_ALONE}{self.declined}",) if self.declined else (*self.notes, *said, *self.caveats),
        )  # fmt: skip


def apply_trial_(model: Model, trial: Trial) -> PlaceRecord:
    """Carry out on `model` what was tried, and say what happened.

    Raises:
        TrimodalError: the place is not what it was when it was tried.
    """
    start = time.perf_counter()
    if trial.change is None:
        return trial.make_record()
    sites = {site.path: site for site in model.layout.sites}
    changed = next((site.path for site in trial.place.sites if sites.get(site.path) != site), None)
    if changed is not None:
        raise TrimodalError(
            f"{trial.task.method.name} at {trial.place.name}: {changed} has changed since this was tried; try it again"
        )
    said = apply_change_(model, trial.place, trial.change, trial.after)
    return trial.make_record(said, time.perf_counter() - start)


def try_task(context: SolveContext, task: Task, seen: SeenAt) -> Trial:
    """Solve one place with one method, and measure what its change would do.

    Args:
        context: the model, which stays as it was, and its calibration data.
        task: place, method, options.
        seen: statistics by path and modality, as `context.observe_places` collects them.
    """
    start, place = time.perf_counter(), context.find_place(task)
    with keep_modes(context.model.module):
        try:
            trial = _choose_way(task, place)(context, task, place, seen)
        except UnreachedError as unreached:
            trial = decline_place(task, place, str(unreached))
    return replace(trial, seconds=time.perf_counter() - start) if trial.change is not None else trial


def decline_place(task: Task, place: Place, reason: str) -> Trial:
    """Nothing is done at `place`: its bytes and its weights stay what they are."""
    changed = None if task.method.survey is not None else 0.0
    return Trial(
        task, place, None, place.sites, {}, changed, place.stored_bytes, {}, 0.0,
        unmeasured="it was left as it is", declined=reason,
    )  # fmt: skip


def _choose_way(task: Task, place: Place) -> Callable[[SolveContext, Task, Place, SeenAt], Trial]:
    """How a place is tried: by what its method does, and whether it is a fold."""
    if task.method.survey is not None:
        return _try_survey
    return _try_fold if place.fold is not None else _try_solving


def _try_survey(context: SolveContext, task: Task, place: Place, seen: SeenAt) -> Trial:
    """Let a method look at all that its place holds, which it measures itself."""
    module, survey, batches = context.model.module, task.method.survey, context.activations.batches
    if survey is None:
        raise TrimodalError(f"{task.method.name} cannot survey {place.name}")
    sizes = next((context.sizes[site.path] for site in place.sites if site.path in context.sizes), None)
    mix = partial(mix_moments, balance=context.balance, gradients=sizes)
    module.eval()
    with torch.no_grad():
        change = survey(context.model, place, batches, mix, task.config)
    after = tuple(_forecast_survey(place, change, task.method.forecast(place, task.config)))
    unmeasured = "" if change.error else explain_unmeasured(place, bool(batches))
    return _make_trial(task, place, change, after, change.error or {}, None, notes=change.notes, unmeasured=unmeasured)


def _forecast_survey(place: Place, change: Change, forecast: Sequence[Site]) -> Sequence[Site]:
    """The sites of a tower after `change`: of blocks that an earlier step has made unlike, it matters which stay."""
    if change.drop is None or place.whole_tower is None:
        return forecast
    return Layout((place.whole_tower,), place.sites).drop_blocks(change.drop.tower, change.drop.kept).sites


def _try_fold(context: SolveContext, task: Task, place: Place, seen: SeenAt) -> Trial:
    """Fold one place. The error is what was measured when it was found; weights before and after cannot be compared."""
    problem = Problem(task, place, context.read_weights(place), None)
    after = tuple(task.method.forecast(place, task.config))
    change = problem.solve()
    unmeasured = "" if change.error else "it was folded where the model could not be run"
    return _make_trial(task, place, change, after, change.error or {}, None, notes=change.notes, unmeasured=unmeasured)


def _try_solving(context: SolveContext, task: Task, place: Place, everything: SeenAt) -> Trial:
    """Solve one place, and measure the error of its observed weight on what was seen of its input."""
    method, config, site = task.method, task.config, place.observed_site
    reason = method.refuse(place, config) if task.planned.certainty != "exact" else None
    if reason is not None:  # planning could only guess what an earlier step leaves here
        return decline_place(task, place, reason)
    weights = context.read_weights(place)
    reason = find_number_overflow(place, weights)
    if reason is not None:
        return decline_place(task, place, reason)
    seen = everything.get(site.path, {})
    problem = Problem(task, place, weights, context.select_statistic(task, place, seen))
    change = problem.solve()
    after = tuple(method.forecast(place, replace(config, **change.settled) if change.settled else config))
    error, changed = _measure_change(context.model, place, change, weights, everything)
    lacking = problem.statistic is None and method.wants(place, config) is not None
    without = f"without data: {method.without_data}" if lacking else ""
    counts = _count_routed(seen, site)
    caveats = (without, _describe_unreached(problem.statistic, place), _describe_routing(counts))
    return _make_trial(
        task, place, change, after, error, changed,
        tokens={name: part.tokens for name, part in seen.items() if isinstance(part, COUNTED)},
        notes=tuple(note for note in (task.note, *change.notes) if note), caveats=tuple(filter(None, caveats)),
        unmeasured="" if error else NO_WEIGHTS if change.is_of_tokens else explain_unmeasured(place, bool(context.activations.batches)),
        experts=counts,
    )  # fmt: skip


def _make_trial(
    task: Task, place: Place, change: Change, after: tuple[Site, ...], error: Mapping[str, float], changed: float | None,
    tokens: Mapping[str, int] | None = None, **rest: Any,
) -> Trial:  # fmt: skip
    return Trial(task, place, change, after, error, changed, place.bytes_with(after), tokens or {}, 0.0, **rest)


def _measure_change(
    model: Model, place: Place, change: Change, weights: Mapping[str, Any], seen: SeenAt
) -> tuple[Mapping[str, float], float]:
    """The output error by modality, that which the method measured or else the observed weight's own; and ‖ΔW‖²/‖W‖²."""
    if change.is_of_tokens:
        return change.error or {}, 0.0
    old, new, bias_change = compare_weights(model, place, change, weights)
    if change.error is not None:
        return change.error, weight_error(old, new)
    paths = list_weight_paths(place.observed_site)
    found = worst_by_modality(place_errors(old, new, bias_change, seen.get(path, {})) for path in paths)
    return found, weight_error(old, new)


def _count_routed(seen: Mapping[str, Any], site: Site) -> tuple[int, ...]:
    """How many tokens came to each of fused experts; empty for other layers."""
    counts = sum(part.counts for part in seen.values() if isinstance(part, GroupedMoment)) if site.kind == "experts" else 0
    return tuple(int(count) for count in counts) if isinstance(counts, torch.Tensor) else ()


def _describe_routing(counts: Sequence[int]) -> str:
    """The experts with the least and the most of the tokens; empty where none were counted."""
    whole = sum(counts)
    if not whole:
        return ""
    few, many = counts.index(min(counts)), counts.index(max(counts))
    said = [f"expert {e}: {counts[e]:,} ({counts[e] / whole:.1%})" for e in (few, many)]
    return f"tokens per expert, the least and the most of {len(counts)}: {', '.join(said)}"


def _describe_unreached(statistic: Statistic | None, place: Place) -> str:
    """How much of what a method was told had to be assumed, since no calibration token reached it; empty if nothing."""
    site = place.observed_site
    if isinstance(statistic, GroupedMoment):
        done = "rounded to the nearest" if place.label is None else "cut by size"
        return "; ".join(filter(None, (_name_unreached(statistic, site, done), _count_assumed(statistic, site))))
    assumed = getattr(statistic, "assumed", 0)
    if isinstance(statistic, WeightGradient):
        return f"{assumed:,} of {site.rows * site.columns:,} weights got no gradient from any sample" if assumed else ""
    return f"{assumed:,} of {site.columns:,} columns were reached by no calibration token" if assumed else ""


def _name_unreached(statistic: GroupedMoment, site: Site, done: str) -> str:
    """The experts that no token came to, and what was `done` to them."""
    gone = statistic.unreached
    if not gone or site.kind != "experts":
        return ""
    named = ", ".join(map(str, gone[:_NAMED])) + (" …" if len(gone) > _NAMED else "")
    what = f"expert {named} of {site.groups} was" if len(gone) == 1 else f"experts {named} ({len(gone)} of {site.groups}) were"
    return f"{what} reached by no calibration token and {done}"


def _count_assumed(statistic: GroupedMoment, site: Site) -> str:
    of = site.columns * (site.groups - len(statistic.unreached))
    return f"{statistic.assumed:,} of {of:,} columns of the others were reached by no token" if statistic.assumed else ""

"""Layers with one input, solved together: one factor per column, one range, and so one quantization when it runs.

The layers that were given the very same tensor have one statistic (`activations.py`), by which they are found. Their method chooses
for all of them at once (`methods/method.py`, `SharedInputs`), and each is then solved by itself with what was chosen. Where
the factors may be folded, the layer or norm before takes them over first (`producers.py`): the model computes what it did, and is whole at
every moment. Convolutions that see one map in unlike patches, as a shortcut with stride 2 beside a layer with stride 1, have statistics of
their own; their method chooses for each, and then joins what it chose.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from trimodal.compression.producers import find_producer, fold_factor
from trimodal.compression.solve_context import SeenAt, SolveContext, Task, find_number_overflow, keep_modes
from trimodal.core import Place
from trimodal.edits.apply import apply_change_
from trimodal.methods.method import InputChoice, SharedInputs
from trimodal.statistics import Moment, Seen, Statistic

_Member = tuple[Task, Place]
_Chosen = tuple[Sequence[_Member], InputChoice, str]


def share_inputs_(
    context: SolveContext, tasks: Sequence[Task], places: Sequence[Place], seen: SeenAt
) -> tuple[list[Task], dict[str, Mapping[str, Seen]]]:
    """The `tasks` of a round, those that quantize one input each with what was chosen for it, and what was `seen` at their `places`,
    as it is after factors were folded; that is all that changes in the model."""
    settled, now = {task.planned.name: task for task in tasks}, dict(seen)
    chosen: list[_Chosen] = []
    for members in _group_by_input(context, tasks, places, seen):
        with keep_modes(context.model.module):
            chosen.append((members, *_share_input_(context, members, now)))
    for group, choice, note in _join_patches(context, chosen):
        others = [place.name for _, place in group]
        settled |= {place.name: _settle_task(task, choice, place, others, note) for task, place in group}
    return [settled[task.planned.name] for task in tasks], now


def _group_by_input(
    context: SolveContext, tasks: Sequence[Task], places: Sequence[Place], seen: SeenAt
) -> list[list[_Member]]:
    """The tasks whose method quantizes inputs, by input and options, in running order."""
    groups: dict[Hashable, list[_Member]] = {}
    for task, place in zip(tasks, places, strict=True):
        if task.method.inputs is None:
            continue
        known = seen.get(place.observed_site.path)
        if not known or task.method.wants(place, task.config) != "sample":
            continue
        if task.method.refuse(place, task.config) is None and find_number_overflow(place, context.read_weights(place)) is None:
            groups.setdefault((task.edit, id(known), task.config), []).append((task, place))
    return list(groups.values())


def _join_patches(context: SolveContext, chosen: Sequence[_Chosen]) -> Sequence[_Chosen]:
    """What was `chosen`, where groups of one block read one tensor in unlike patches with what their method then makes of it."""
    kernels = [members[0][1].observed_site for members, _, _ in chosen if members[0][1].observed_site.kind == "conv"]
    if len(kernels) < 2:
        return chosen
    with keep_modes(context.model.module):
        source = context.activations.find_sources(kernels)
    alike: dict[Hashable, list[int]] = {}
    for number, (members, _, _) in enumerate(chosen):
        task, place = members[0]
        path = place.observed_site.path
        alike.setdefault((task.edit, task.method.name, source.get(path, path)), []).append(number)
    joined = list(chosen)
    for numbers in alike.values():
        inputs = chosen[numbers[0]][0][0][0].method.inputs
        assert inputs is not None
        if len(numbers) > 1:
            for number, choice in zip(numbers, inputs.join([chosen[n][1] for n in numbers]), strict=True):
                joined[number] = (chosen[number][0], choice, chosen[number][2])
    return joined


def _share_input_(
    context: SolveContext, members: Sequence[_Member], seen: dict[str, Mapping[str, Seen]]
) -> tuple[InputChoice, str]:
    """What their method chose for the members' input, and a note; `seen` becomes that of the input as it is then."""
    (first, place), sites = members[0], [place.observed_site for _, place in members]
    inputs, statistic = first.method.inputs, context.select_statistic(first, place, seen[sites[0].path])
    assert inputs is not None
    producer = find_producer(context, sites) if inputs.folds(first.config) else None
    choice = _fit_choice(context, inputs, members, statistic, None if producer is None else producer.ties)
    note = ""
    if producer is not None and choice.factor is not None:
        change = fold_factor(context, producer, sites, choice.factor)
        whole = (producer.site, *sites)
        apply_change_(context.model, Place(producer.site.name, whole), change, whole)
        note = f"factors folded into {producer.site.name}"
        scaled = {
            name: part.scale_columns(choice.factor) if isinstance(part, Moment) else part for name, part in seen[sites[0].path].items()
        }
        seen.update(dict.fromkeys((site.path for site in sites), scaled))
    return choice, note


def _fit_choice(
    context: SolveContext, inputs: SharedInputs, members: Sequence[_Member], statistic: Statistic | None, ties: object
) -> InputChoice:
    given = [(place, context.read_weights(place)) for _, place in members]
    return inputs.fit(given, statistic, members[0][0].config, ties)  # type: ignore[arg-type]


def _settle_task(task: Task, choice: InputChoice, place: Place, members: Sequence[str], note: str) -> Task:
    others = ", ".join(name for name in members if name != place.name)
    said = [task.note, choice.note, f"one input with {others}" if others else "", note]
    return replace(task, config=choice.config, lent=choice.tensors, note="; ".join(filter(None, said)))

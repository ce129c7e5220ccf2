"""The tables that layers share, fitted to all of them before any is solved.

All places are looked at with the model as it is, block by block, and of each only what it puts into the table is kept. The
sweep hands the table to every place that uses it. What a table is, and who shares one, the method says
(`methods/method.py`, `SharedTables`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

from trimodal.compression.solve_context import SolveContext, Task
from trimodal.core import Edit, Place
from trimodal.errors import TrimodalError
from trimodal.methods import get_method
from trimodal.methods.method import SharedTables
from trimodal.methods.options import build_config


def has_shared_tables(edit: Edit) -> bool:
    """Whether places of the edit share a table."""
    used = get_method(edit.method)
    configs = (build_config(used.config, {**edit.config, **place.config}, edit.method) for place in edit.places)
    return used.tables is not None and any(map(used.tables.uses, configs))


def assign_shared_tables(context: SolveContext, tasks: list[Task], tell: Callable[[str], None] = lambda what: None) -> list[Task]:
    """The `tasks`, those that share a table each with that table."""
    found = [(task, context.find_place(task)) for task in tasks if task.method.tables and task.method.tables.uses(task.config)]
    # planning could only guess what an earlier step leaves: where that is declined the next layer stores the table
    found = [(task, place) for task, place in found if task.method.refuse(place, task.config) is None]
    crowds: dict[Hashable, list[Any]] = {}
    for problem in context.iterate_problems(found, "the table for", tell):
        part = _tables_of(problem.task).gather(problem.place, problem.weights, problem.statistic, problem.task.config)
        crowds.setdefault(_key_of(problem.task, problem.place), []).append(part)
    fitted: dict[Hashable, Any] = {}
    changed: dict[tuple[int, str], Task] = {}
    before: list[tuple[Place, Any]] = []
    for task, place in found:
        key, tables = _key_of(task, place), _tables_of(task)
        if key not in fitted:
            fitted[key] = {tables.name_at(place.observed_site.path): tables.fit(crowds[key], task.config)}
        config = tables.assign_owner(place, task.config, before)
        before.append((place, config))
        changed[task.edit, task.planned.name] = replace(task, config=config, lent=fitted[key])
    return [changed.get((task.edit, task.planned.name), task) for task in tasks]


def _tables_of(task: Task) -> SharedTables:
    if task.method.tables is None:
        raise TrimodalError(f"{task.method.name} shares no tables")
    return task.method.tables


def _key_of(task: Task, place: Place) -> Hashable:
    return task.edit, _tables_of(task).group_of(place, task.config)

"""The tables that the layers of a tower share (`table: tower`), fitted to all of them before any is solved.

All places are looked at with the model as it is, block by block, and of each only what it puts into the table is kept. The
sweep hands the table to every place that uses it. See `methods/quantize/tower_codebook.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from trimodal.compression.solve_context import SolveContext, Task, locate_block, weights_of
from trimodal.core import Edit, Place
from trimodal.maths.codebook import CodebookSamples, fit_shared_table
from trimodal.methods import get_method
from trimodal.methods.options import build_config
from trimodal.methods.quantize.tower_codebook import (
    assign_codebook_owner,
    codebook_group_of,
    gather_place_samples,
    shared_levels_key,
    uses_shared_codebook,
)


def has_shared_tables(edit: Edit) -> bool:
    """Whether places of the edit share a table."""
    used = get_method(edit.method)
    return any(uses_shared_codebook(build_config(used.config, {**edit.config, **place.config}, edit.method)) for place in edit.places)


def assign_shared_tables(given: SolveContext, tasks: Sequence[Task], tell: Callable[[str], None] = lambda what: None) -> list[Task]:
    """The `tasks`, those that share a table each with that table."""
    found = [(task, given.find_place(task)) for task in tasks if uses_shared_codebook(task.config)]
    # planning could only guess what an earlier step leaves: where that is declined the next layer stores the table
    found = [(task, place) for task, place in found if task.method.refuse(place, task.config) is None]
    crowds: dict[Hashable, list[CodebookSamples]] = {}
    for _, group in groupby(found, key=lambda pair: locate_block(pair[1].observed_site)):
        here, places = zip(*group, strict=True)
        tell(f"{here[0].method.name}: the table for {places[0].name}")
        seen = given.observe_places(here, places, errors=False)
        for task, place in zip(here, places, strict=True):
            statistic = given.select_statistic(task, place, seen.get(place.observed_site.path, {}))
            part = gather_place_samples(place, weights_of(given.model, place), statistic, task.config)
            crowds.setdefault(_table_key(task, place), []).append(part)
    tables: dict[Hashable, Any] = {}
    changed: dict[tuple[int, str], Task] = {}
    before: list[tuple[Place, Any]] = []
    for task, place in found:
        key = _table_key(task, place)
        if key not in tables:
            table = fit_shared_table(crowds[key], task.config.bits, task.config.group != "tower")
            tables[key] = {shared_levels_key(place.observed_site.path): table}
        config = assign_codebook_owner(place, task.config, before)
        before.append((place, config))
        changed[task.edit, task.planned.name] = replace(task, config=config, shared_codebook=tables[key])
    return [changed.get((task.edit, task.planned.name), task) for task in tasks]


def _table_key(task: Task, place: Place) -> Hashable:
    return task.edit, codebook_group_of(place, task.config)

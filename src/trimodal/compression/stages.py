"""What is done together: the plan in stages, a stage in blocks, a block in rounds.

A stage is an edit that trains or surveys whole towers, by itself, or solving edits one after the other: one sweep over the
model in running order. An edit whose places are ranked together, or share a table, begins a new stage, before which it is
settled how much goes where, or which numbers are shared; and so does one with a place in several blocks that earlier edits
change, since these must be done in all of them. In a block a new round begins where a place touches a site that the block's
earlier rounds have changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from trimodal.compression.allocation import has_ranked_places
from trimodal.compression.codebooks import has_shared_tables
from trimodal.compression.solve_context import Task
from trimodal.core import Edit, Layout
from trimodal.methods import get_method

NumberedEdit = tuple[int, Edit]


def split_stages(edits: Sequence[Edit], layout: Layout) -> Iterator[list[NumberedEdit]]:
    """The edits, numbered in order, stage by stage; `layout` is that of the model before the first."""
    stage: list[NumberedEdit] = []
    for number, edit in enumerate(edits):
        alone = get_method(edit.method).solve is None
        new = alone or has_ranked_places(edit) or has_shared_tables(edit)
        if stage and (new or get_method(stage[0][1].method).solve is None or _must_wait(edit, stage, layout)):
            yield stage
            stage = []
        stage.append((number, edit))
    if stage:
        yield stage


def _must_wait(edit: Edit, stage: Sequence[NumberedEdit], layout: Layout) -> bool:
    """Whether a place of `edit` lies in several blocks and edits of the `stage` work on a part of it."""
    blocks = [f"{block}." for tower in layout.towers for block in tower.blocks]
    far = [
        place.paths
        for place in edit.places
        if len({next((b for b in blocks if f"{path}.".startswith(b)), "") for path in place.paths}) > 1
    ]
    changed = {path for _, earlier in stage for place in earlier.places for path in place.paths} if far else set()
    return any(_is_inside(path, changed) for paths in far for path in paths)


def split_blocks(tasks: Sequence[Task], layout: Layout) -> list[list[Task]]:
    """The tasks block by block in running order. What has no site of its own, or surveys more than a block, is one by itself
    and comes first."""
    alone = [task for task in tasks if not task.planned.paths or task.method.survey is not None]
    blocks, left = [[task] for task in alone], [task for task in tasks if task not in alone]
    order = {site.path: (site.tower, site.block) for site in layout.sites}
    for _, paths in groupby(order, key=lambda path: order[path]):
        here = set(paths)
        block = [task for task in left if any(_is_inside(path, here) for path in task.planned.paths)]
        left = [task for task in left if task not in block]
        blocks.append(block)
    return [block for block in blocks if block]


def split_rounds(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """The tasks of a block, in order, split where one touches what an earlier one has changed."""
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


def _is_inside(path: str, paths: set[str]) -> bool:
    """Whether `path` is one of `paths` or a part of one (a factor of a factorised layer)."""
    return any(path == p or path.startswith(f"{p}.") for p in paths)

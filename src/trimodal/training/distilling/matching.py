"""Which block of the teacher a block of the student learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from trimodal.core import Layout
from trimodal.errors import RecipeError

TowerMatching = Literal["uniform", "last"] | Sequence[int]
Matching = TowerMatching | Mapping[str, TowerMatching]


def match_blocks(teacher: int, student: int, how: TowerMatching) -> list[int]:
    """For each of the `student` blocks the number of the teacher's, of which there are `teacher`.

        4 of 12: uniform 2, 5, 8, 11 (each student block stands for as many); last 8, 9, 10, 11
    """
    if how == "last":
        return [max(0, teacher - student + number) for number in range(student)]
    if how == "uniform":
        return [max(0, round((number + 1) * teacher / student) - 1) for number in range(student)]
    assert not isinstance(how, str)
    return list(how)


def match_towers(teacher: Layout, student: Layout, how: Matching) -> dict[str, str]:
    """The path of the teacher's block by that of the student's, tower by tower, in running order.

    Raises:
        RecipeError: the student has a tower that the teacher has not, or a list does not fit.
    """
    blocks = {tower.name: tower.blocks for tower in teacher.towers if tower.blocks}
    found: dict[str, str] = {}
    for tower in student.towers:
        if not tower.blocks:
            continue
        if tower.name not in blocks:
            raise RecipeError(
                f"the student's tower {tower.name} ({len(tower.blocks)} blocks) has nothing to learn from: the teacher has "
                f"{', '.join(blocks) or 'no tower with blocks'}; leave out features, attentions and relations"
            )
        there = blocks[tower.name]
        own: TowerMatching = how.get(tower.name, "uniform") if isinstance(how, Mapping) else how
        numbers = match_blocks(len(there), len(tower.blocks), own)
        if len(numbers) != len(tower.blocks) or any(not 0 <= number < len(there) for number in numbers):
            raise RecipeError(
                f"distill.layers gives {numbers} for {tower.name}, where the student has {len(tower.blocks)} blocks and the teacher "
                f"{len(there)}; expected {len(tower.blocks)} numbers from 0 to {len(there) - 1}, or uniform or last"
            )
        found |= {path: there[number] for path, number in zip(tower.blocks, numbers, strict=True)}
    return found

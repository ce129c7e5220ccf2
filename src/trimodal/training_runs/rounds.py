"""Several rounds of distillation: teacher → assistant → … → student, each a training of its own whose folder stays.

    distill: {teacher: T, logits: 1, assistants: [{model: {student_of: teacher, layers: 4}, steps: 400}]}
    output: small

trains `small-assistant-1` from T, then `small` from `small-assistant-1`. `student_of: teacher` is the teacher of that round. An assistant's
folder that the same configuration, data and teacher have made is taken as it is, so a run that was killed between two rounds goes on there.
(Teacher assistants: Mirzadeh et al. 2020, arXiv 1902.03393.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimodal.errors import OutputError, RecipeError
from trimodal.training_runs.building import TEACHER
from trimodal.training_runs.config_file import TrainKeys, read_config
from trimodal.training_runs.distill_keys import DistillKeys
from trimodal.training_runs.run_folder import FREE_TO_CHANGE
from trimodal.training_runs.saving import RECORD

_OWN = ("output", "distill", "data", "map", "task")  # what an assistant may not say otherwise


def list_rounds(name: str, keys: TrainKeys, out: str | Path | None) -> list[TrainKeys]:
    """The configurations of all rounds, the student's last; each assistant has its own output.

    Raises:
        RecipeError: an assistant says what all rounds share, or a key that there is not.
    """
    told = keys.distill
    if told is None or not told.assistants:
        return [_name_teacher(keys, None if told is None else told.teacher)]
    place = out or keys.output
    if place is None:
        raise OutputError(f"{name}: there is no folder to write the result to; give output, or -o")
    found: list[TrainKeys] = []
    teacher = told.teacher
    for number, given in enumerate(told.assistants, 1):
        folder = Path(place).parent / f"{Path(place).name}-assistant-{number}"
        found.append(_make_assistant(f"{name}: distill.assistants[{number - 1}]", keys, told, given, teacher, folder))
        teacher = str(folder)
    return [*found, _name_teacher(_set_teacher(keys, told, teacher), teacher)]


def _make_assistant(
    name: str, keys: TrainKeys, told: DistillKeys, given: Mapping[str, Any], teacher: Any, folder: Path
) -> TrainKeys:  # fmt: skip
    shared = next((key for key in given if key in _OWN), None)
    if shared is not None:
        raise RecipeError(f"{name} says {shared}, which is that of all rounds; leave it out")
    length = ("steps", "epochs") if {"steps", "epochs"} & set(given) else ()
    values = {key: value for key, value in keys.model_dump(by_alias=True, exclude_unset=True).items() if key not in length}
    alone = told.model_dump(exclude={"assistants"}, exclude_unset=True)
    _, found = read_config({**values, **given, "output": str(folder), "distill": alone})
    return _name_teacher(_set_teacher(found, told, teacher), teacher)


def _set_teacher(keys: TrainKeys, told: DistillKeys, teacher: Any) -> TrainKeys:
    return keys.model_copy(update={"distill": told.model_copy(update={"teacher": teacher, "assistants": []})})


def _name_teacher(keys: TrainKeys, teacher: Any) -> TrainKeys:
    """`student_of: teacher` as the folder that it means."""
    if teacher is None or not isinstance(keys.model, Mapping) or keys.model.get("student_of") != TEACHER:
        return keys
    return keys.model_copy(update={"model": {**keys.model, "student_of": str(teacher)}})


def find_finished_round(folder: Path, said: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `training.json` in `folder` records, if it is of the very run that `said` describes; else None."""
    file = folder / RECORD
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    there = {**found["config"], "data_sha256": found["data"]["sha256"], "teacher_sha256": found.get("teacher", {}).get("sha256")}
    same = all(there.get(key) == value for key, value in said.items() if key not in FREE_TO_CHANGE)
    return found if same else None

"""The tasks by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from trimodal.core import Sample
from trimodal.errors import InputError
from trimodal.models.model import Model
from trimodal.training.classifying import make_classify
from trimodal.training.objective import Objective
from trimodal.training.reconstructing import make_reconstruct
from trimodal.training.retrieving import make_retrieve
from trimodal.training.segmenting import make_segment
from trimodal.training.speaking import make_speak

TaskName = Literal["classify", "retrieve", "transcribe", "generate", "reconstruct", "segment", "imitate"]
TASKS: tuple[str, ...] = get_args(TaskName)


def make_objective(task: TaskName, model: Model, samples: Sequence[Sample], *, part: int, hidden: float = 0.15, seed: int = 0) -> Objective:
    """What `model` is trained for.

    Args:
        task: its name.
        model: what is trained.
        samples: all samples that it is trained and measured with.
        part: how many of them go through at once.
        hidden: share of a text's tokens that `reconstruct` hides.
        seed: of what is drawn for that.

    Raises:
        InputError: the model, or a sample, does not fit the task.
    """
    if task == "classify":
        return make_classify(model, samples)
    if task == "retrieve":
        return make_retrieve(model, samples, part)
    if task == "imitate":
        raise InputError("task: imitate has no labels, so it is trained for what a teacher says alone; give distill")
    if task == "reconstruct":
        return make_reconstruct(model, samples, hidden, seed)
    if task == "segment":
        return make_segment(model, samples)
    return make_speak(task, model, samples)

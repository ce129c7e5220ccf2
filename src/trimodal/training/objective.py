"""What is trained for: how samples become a batch with labels, and what the loss of such a batch is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from trimodal.core import Sample

Batch = Mapping[str, Tensor]
LABELS = "labels"
IGNORED = -100  # what no loss counts
TEACHER = "teacher."  # begins the names in a batch of what a teacher says of its samples

Drawn = tuple[int, Sample]
"""A sample with its place in the order of the whole run, which whatever is drawn for it depends on, and on nothing else."""


def leave_whole(batch: Any) -> Sequence[Any]:
    """A batch as its only part."""
    return (batch,)


@dataclass(frozen=True)
class Objective:
    """One task for one model.

    Attributes:
        name: `classify`, `retrieve`, `transcribe`, `generate`, `reconstruct` or `segment`.
        encode: drawn samples -> the keyword arguments of the module's forward, and the labels under `labels`.
        loss: (module, batch) -> the mean loss of what is labelled as ``loss``, and parts of it by name.
        count: batch -> how many labels the mean is over; batches that make up one step count by it.
        part: batch -> its parts, which go through one after the other where it is too large to go through at once; they count by `count`.
    """

    name: str
    encode: Callable[[Sequence[Drawn]], dict[str, Tensor]]
    loss: Callable[[nn.Module, Batch], dict[str, Tensor]]
    count: Callable[[Batch], int]
    part: Callable[[Batch], Sequence[Batch]] = leave_whole


def split_labels(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """What forward is given, and the labels."""
    return select_inputs(batch), batch[LABELS]


def select_inputs(batch: Batch) -> dict[str, Tensor]:
    """What forward is given of a batch."""
    return {name: value for name, value in batch.items() if name != LABELS and not name.startswith(TEACHER)}


def count_labels(batch: Batch) -> int:
    """How many labels of a batch count."""
    return int((batch[LABELS] != IGNORED).sum())


def count_rows(batch: Batch) -> int:
    """How many samples a batch has."""
    return len(next(iter(batch.values())))

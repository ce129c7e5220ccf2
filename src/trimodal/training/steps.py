"""What each optimizer step did: its loss and the parts of it, the learning rate, the gradient, how long it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step did: the mean loss over its batches and the parts of that loss by name, those of this process.

    `step` counts from 1. `learning_rate` is the one it was made with, `gradient_norm` the 2-norm before clipping, `seconds` the
    wall time of the step.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)


OnStep = Callable[[StepRecord], None]


def ignore_step(record: StepRecord) -> None:
    """Do nothing with a step's record."""

"""What each optimizer step did: its loss and the parts of it, the learning rate, the gradient, how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import TrainerCallback


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


class StepMeter(TrainerCallback):
    """Adds up the losses of a step's batches, and tells the step's record when its weights are made."""

    def __init__(self) -> None:
        self._on_step: OnStep = ignore_step
        self._totals: dict[str, float] = {}
        self._norm, self._rate, self._began = 0.0, 0.0, time.perf_counter()

    def tell_steps_to(self, on_step: OnStep) -> None:
        """Call `on_step` with each record from now on."""
        self._on_step = on_step

    def add_losses(self, parts: Mapping[str, Tensor], share: float) -> None:
        """Take in a batch's `loss` and parts, scalars, which are `share` of the step's."""
        for name, value in parts.items():
            self._totals[name] = self._totals.get(name, 0.0) + float(value.detach()) * share

    def note_gradient(self, norm: float) -> None:
        """Take in the step's gradient norm."""
        self._norm = norm

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **rest: Any) -> None:
        """Note the learning rate."""
        self._rate = float(optimizer.param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Tell the record, and begin the next."""
        totals, now = self._totals, time.perf_counter()
        loss = totals.pop("loss", 0.0)
        self._on_step(StepRecord(state.global_step, loss, self._rate, self._norm, now - self._began, totals))
        self._totals, self._began = {}, now

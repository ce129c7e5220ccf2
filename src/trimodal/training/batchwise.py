"""Training on batches that are there already, or are made one by one, with a loss of one's own: the engine without samples.

Recovery, the built-in model and whoever has batches of their own train so. The run is kept nowhere: its folder is a temporary one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from trimodal.errors import InputError
from trimodal.lazy import lazy_module
from trimodal.models.process import leaves_process_unchanged
from trimodal.training.objective import Objective, leave_whole
from trimodal.training.settings import EngineSettings, RunFolder
from trimodal.training.steps import OnStep, StepRecord, ignore_step

_engine = lazy_module("trimodal.training.engine")  # the Trainer takes seconds to import
B = TypeVar("B")
Batches = Callable[[int], B] | Iterable[B]
Loss = Callable[[nn.Module, B], Tensor | Mapping[str, Tensor]]
Part = Callable[[B], Sequence[B]]


@leaves_process_unchanged
def train_on_batches(
    module: nn.Module, batches: Batches[B], loss: Loss[B], settings: EngineSettings, *, part: Part[B] = leave_whole,
    on_step: OnStep = ignore_step,
) -> list[StepRecord]:  # fmt: skip
    """Train `module` in place, one batch per step (`settings.accumulate` of them), and give a record per optimizer step.

    Args:
        module: parameters with ``requires_grad`` are trained, on the device where they are; it ends in eval mode.
        batches: a function of the batch's number (from 0), or an iterable, which is started again when it ends; tensors, alone, by
            name or in a tuple.
        loss: (module, batch) -> a scalar, or scalars by name of which ``loss`` is minimised and the others are recorded.
        settings: how; `batch` is not looked at.
        part: batch -> its parts, where it is too large to go through at once; they count by their rows.
        on_step: called with each record.

    Raises:
        InputError: nothing can be trained, or there are no batches.
        DivergedError: the loss or its gradient is not finite; the weights keep their last finite state.
    """
    make, records = _as_function(batches), list[StepRecord]()

    def note(record: StepRecord) -> None:
        records.append(record)
        on_step(record)

    def encode(drawn: Sequence[tuple[int, Any]]) -> Any:
        return make(drawn[0][1])

    objective = Objective("batches", encode, lambda one, batch: _name_losses(loss(one, batch)), _count_rows, part)  # type: ignore[arg-type]
    numbers = range(settings.steps * settings.accumulate)
    device = next((parameter.device.type for parameter in module.parameters()), "cpu")
    settings = replace(settings, batch=settings.accumulate, device=device)
    with tempfile.TemporaryDirectory() as folder:
        _engine.train_module(module, objective, numbers, numbers, settings, RunFolder(Path(folder)), on_step=note)
    return records


def _as_function(batches: Batches[B]) -> Callable[[int], B]:
    if callable(batches):
        return batches
    stream = _repeat(batches)
    return lambda number: next(stream)


def _repeat(batches: Iterable[B]) -> Iterator[B]:
    while True:
        seen = False
        for batch in batches:
            seen = True
            yield batch
        if not seen:
            raise InputError("the batches ended early; give a list, a loader or a function, not a spent iterator")


def _name_losses(found: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The loss by the name ``loss``."""
    if isinstance(found, Tensor):
        return {"loss": found}
    if "loss" not in found:
        raise InputError(f"the loss has the names {', '.join(sorted(found))}; one of them must be 'loss'")
    return dict(found)


def _count_rows(batch: Any) -> int:
    """Rows of a batch: those of its first tensor that has any."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else (batch,)
    return next((len(value) for value in values if value.dim()), 1)

"""The one training loop: a model, batches, a loss, settings. It knows no method and no model.

Distillation, quantization-aware training and plain training differ only in the closure that they pass as
`loss`. Mixed precision and gradient accumulation are Accelerate's, the schedules are Transformers'. The model stays
where it is, and the batches come to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from trimodal.errors import TrimodalError

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped, unused-ignore]

Batch = TypeVar("Batch")
Batches = Callable[[int], Batch] | Iterable[Batch]
Loss = Callable[[nn.Module, Batch], Tensor | Mapping[str, Tensor]]
Part = Callable[[Batch], Sequence[tuple[float, Batch]]]
"""A batch -> its parts, each with its share of it; the shares add up to 1."""

PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
SCHEDULES = ("cosine", "linear", "constant")


class DivergedError(TrimodalError):
    """The loss or its gradient stopped being a finite number."""


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    `steps` counts optimizer steps, each over `accumulation` batches. `learning_rate` is the highest one,
    reached after the fraction `warmup` of the steps. `gradient_clip` bounds the gradient's 2-norm; 0 leaves
    it alone. `weight_decay` acts on matrices and kernels, not on biases and norms. `frozen_noise` trains in
    eval mode: no dropout, batch norms keep their statistics.
    """

    steps: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    schedule: str = "cosine"
    precision: str = "float32"
    gradient_clip: float = 1.0
    accumulation: int = 1
    seed: int = 0
    frozen_noise: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be run."""
        if self.steps < 1 or self.accumulation < 1:
            raise ValueError(f"steps is {self.steps} and accumulation {self.accumulation}; both must be at least 1.")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.gradient_clip < 0:
            raise ValueError("learning_rate must be positive, weight_decay and gradient_clip must not be negative.")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is {self.warmup}; it is a fraction of the steps, from 0 to 1.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r}, expected one of {', '.join(SCHEDULES)}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}.")


@dataclass(frozen=True)
class TrainStepRecord:
    """What one optimizer step did: mean loss over its batches, the parts of that loss by name, and how fast
    it was.

    `step` counts from 1. `gradient_norm` is the 2-norm before clipping, `seconds` the wall time of the step.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)


def train_model(
    model: nn.Module,
    batches: Batches[Batch],
    loss: Loss[Batch],
    settings: TrainSettings,
    on_step: Callable[[TrainStepRecord], None] | None = None,
    part: Part[Batch] | None = None,
) -> list[TrainStepRecord]:
    """Train `model` in place and return one record per optimizer step.

    `batches` is either a function of the batch number (from 0) or an iterable, which is started again when it
    ends. `loss(model, batch)` returns a scalar, or a mapping whose ``"loss"`` is minimised and whose other
    entries are only recorded. `part` takes a batch apart that is too large to go through at once; the losses of
    its parts count by their shares. Only parameters with ``requires_grad`` are trained. The model's training mode
    is put back at the end. On the CPU the same seed, model and batches give the same weights.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError("The model has no parameter with requires_grad; nothing can be trained.")
    torch.manual_seed(settings.seed)
    device = trainable[0].device
    accelerator = _make_accelerator(settings, device)
    optimizer = torch.optim.AdamW(_group_parameters(trainable, settings.weight_decay), lr=settings.learning_rate)
    scheduler = _make_schedule(optimizer, settings)
    was_training = model.training
    prepared, optimizer = accelerator.prepare(model.train(not settings.frozen_noise), optimizer)
    stream = map(part or _leave_whole, _stream_batches(batches))
    records = []
    try:
        for step in range(1, settings.steps + 1):
            record = _run_step(step, prepared, stream, loss, settings, accelerator, optimizer, scheduler, device)
            records.append(record)
            if on_step is not None:
                on_step(record)
    finally:
        accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    return records


def _run_step(
    step: int,
    model: nn.Module,
    stream: Iterator[Sequence[tuple[float, Batch]]],
    loss: Loss[Batch],
    settings: TrainSettings,
    accelerator: Accelerator,
    optimizer: Any,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    device: torch.device,
) -> TrainStepRecord:
    """One optimizer step over `settings.accumulation` batches, each in its parts."""
    started = time.perf_counter()
    totals: dict[str, float] = {}
    for share, batch in (one for _ in range(settings.accumulation) for one in next(stream)):
        among = settings.accumulation / share
        with accelerator.autocast():
            parts = _to_named_losses(loss(model, _to_device(batch, device)))
        _check_finite_value("loss", float(parts["loss"].detach()), step)
        accelerator.backward(parts["loss"] / among)
        for name, value in parts.items():
            totals[name] = totals.get(name, 0.0) + float(value.detach()) / among
    norm = _clip_gradient(model, accelerator, settings)
    if settings.precision != "float16":  # in float16 the loss scaler skips such a step by itself
        _check_finite_value("gradient", norm, step)
    learning_rate = float(scheduler.get_last_lr()[0])
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad(set_to_none=True)
    total = totals.pop("loss")
    return TrainStepRecord(step, total, learning_rate, norm, time.perf_counter() - started, totals)


def _make_accelerator(settings: TrainSettings, device: torch.device) -> Accelerator:
    """A fresh accelerator of the wanted precision, which leaves the model where it is: on `device`."""
    from accelerate import Accelerator  # type: ignore[import-untyped, unused-ignore]
    from accelerate.state import AcceleratorState  # type: ignore[import-untyped, unused-ignore]

    if settings.precision == "float16" and device.type == "cpu":
        raise ValueError("precision float16 needs a model on a GPU; use bfloat16 or float32 on the CPU.")
    # Accelerate keeps its precision in process-wide state and refuses a second one; each run has its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        mixed_precision=PRECISIONS[settings.precision], device_placement=False, cpu=device.type == "cpu"
    )


def _group_parameters(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels; leave vectors (biases, norms) alone."""
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    free = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _make_schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate over the steps, from Transformers."""
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    warmup = round(settings.warmup * settings.steps)
    schedule: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=settings.steps
    )
    return schedule


def _stream_batches(batches: Batches[Batch]) -> Iterator[Batch]:
    """Batches without end."""
    if callable(batches):
        number = 0
        while True:
            yield batches(number)
            number += 1
    while True:
        seen = False
        for batch in batches:
            seen = True
            yield batch
        if not seen:
            raise ValueError("The batches ended early: give a list, a loader or a function, not a spent iterator.")


def _leave_whole(batch: Batch) -> Sequence[tuple[float, Batch]]:
    """A batch as its only part."""
    return ((1.0, batch),)


def _to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the tensors inside a batch; leave everything else."""
    from accelerate.utils import send_to_device  # type: ignore[import-untyped, unused-ignore]

    moved: Batch = send_to_device(batch, device)
    return moved


def _to_named_losses(result: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The loss as a mapping with the key ``loss``."""
    if isinstance(result, Tensor):
        return {"loss": result}
    if "loss" not in result:
        raise ValueError(f"The loss returned the names {', '.join(sorted(result))}; one of them must be 'loss'.")
    return result


def _check_finite_value(what: str, value: float, step: int) -> None:
    """Stop before a value that is no number reaches the weights."""
    if not math.isfinite(value):
        raise DivergedError(
            f"The {what} is {value} at step {step}; the weights keep their last finite state. "
            "Lower learning_rate, set gradient_clip, or look for empty masks in the batch."
        )


def _clip_gradient(model: nn.Module, accelerator: Accelerator, settings: TrainSettings) -> float:
    """The gradient's 2-norm before clipping."""
    bound = settings.gradient_clip or math.inf
    norm = accelerator.clip_grad_norm_(model.parameters(), bound)
    return 0.0 if norm is None else float(norm)

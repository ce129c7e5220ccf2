"""Training one model towards another on batches without labels: what every recovery does, whatever it lets move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trimodal.data import BatchLimits, part_batch
from trimodal.models.foreign import run_forward
from trimodal.models.model import Batch, Model
from trimodal.training.batchwise import train_on_batches
from trimodal.training.distilling.block_outputs import find_real_tokens, record_block_outputs
from trimodal.training.distilling.loss import DistillationWeights, compute_distillation_loss
from trimodal.training.settings import EngineSettings, Schedule
from trimodal.training.steps import StepRecord


@dataclass(frozen=True)
class TowardsSettings:
    """How a student is trained: optimizer `steps` of `batch` samples, the highest `learning_rate` and its `schedule`, and what each
    distance from the teacher counts."""

    steps: int
    batch: int
    learning_rate: float
    schedule: Schedule
    weights: DistillationWeights


def train_towards(
    student: Model, teacher: Model, batches: Sequence[Batch], settings: TowardsSettings, seed: int
) -> list[StepRecord]:
    """Train `student` in place to give what `teacher` gives, and give a record per step.

    Args:
        student: parameters with ``requires_grad`` are trained; both models run in eval mode.
        teacher: as the model was; its blocks may be more.
        batches: all the data, which are gone round in a new order each time, said by `seed`.
        settings: how.
        seed: of the order.

    Raises:
        InputError: nothing can be trained.
    """
    outputs = teacher.family.outputs(teacher.module)
    teacher.module.eval()
    order = shuffle_batches(len(batches), settings.steps, seed)
    engine = EngineSettings(
        steps=settings.steps, learning_rate=settings.learning_rate, schedule=settings.schedule, weight_decay=0.0, seed=seed,
        frozen_noise=True,
    )  # fmt: skip
    with record_block_outputs(teacher) as expected, record_block_outputs(student, teacher.layout) as found:

        def compute_loss(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
            expected.clear()  # a block that this batch does not reach must not be compared by the last one's states
            found.clear()
            with torch.no_grad():
                teaching = run_forward(teacher.module, batch)
            real, answer = find_real_tokens(teacher, batch), run_forward(module, batch)
            return compute_distillation_loss(outputs, batch, (teaching, expected), (answer, found), settings.weights, real)

        def part(batch: Batch) -> list[Batch]:
            return _part_batch(teacher, batch, settings.batch)

        return train_on_batches(student.module, lambda number: batches[order[number]], compute_loss, engine, part=part)


def _part_batch(model: Model, batch: Batch, size: int) -> list[Batch]:
    """The batch of at most `size` samples in parts that go through at once."""
    rows = min(size, max((len(value) for value in batch.values() if value.dim()), default=1))
    return [few for _, few in part_batch(model, batch, rows, BatchLimits(rows))]


def shuffle_batches(count: int, steps: int, seed: int) -> list[int]:
    """Indices of `steps` batches: rounds of all `count` of them, each in a new order."""
    generator = torch.Generator().manual_seed(seed)
    rounds = [torch.randperm(count, generator=generator) for _ in range(-(-steps // count))]
    indices: list[int] = torch.cat(rounds)[:steps].tolist()
    return indices

"""Distillation as recovery: train what is left of the model to do what the original does.

Idea. The original's answers and inner states on unlabelled data say more than labels would. A few hundred steps on the
calibration data win back most of what pruning lost.

Problem. With teacher t and student s, over all batches and all parameters of s that are plain numbers, minimise

    L = logits · T² · KL(softmax(t/T) ‖ softmax(s/T))      every output of class or token scores, mean over rows
      + embeddings · (1 − cos(t, s))                       every output that is an embedding; of boxes mean |t − s|
      + features · mean over blocks of ‖h_s − h_t‖²/‖h_t‖²  every block's output h, in every tower, padding left out

(Hinton, Vinyals, Dean 2015, arXiv 1503.02531, for the first term; FitNets, Romero et al. 2015, arXiv 1412.6550, for the
last, made relative so that blocks count alike whatever their scale.)

Algorithm. AdamW, learning rate on a cosine (or `schedule`) after a short warm-up, gradient clipped at 1; both models in
eval mode, so no dropout and batch norms keep their statistics. The loss is 0 with zero gradient where student and teacher
agree.

Cost: steps × (2 forwards + 1 backward); a batch with more tokens than go through at once is parted, and its parts' losses
are averaged by their samples. Weights on a grid do not move; the kept weights of a pruned site do, its mask
does not; norms and biases always do. Of a codebook that k-means has learned the levels move, the codes do not: a level's
gradient is the sum of those of the weights that share it (Han, Mao, Dally 2016, arXiv 1510.00149). They are trained in
float32 and rounded to the float16 that is stored when training is done. With `train` only norms, biases, or the scales of coded
weights move (or all `small` ones), the latter in float32 until they are stored as float16 too: a thousandth of the parameters, for a
model that is coded already. Fails with too little data: it then fits the
calibration set. Departs from common code: the KL is a mean over rows, never over classes, so that T and the vocabulary's
size do not change its weight.

By hand. One row, two classes, T = 1: t = (0, 0), s = (ln 3, 0): softmax(t) = (½, ½), softmax(s) = (¾, ¼),
KL = ½ ln(½/¾) + ½ ln(½/¼) = ½ ln(4/3) = 0.143841.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trimodal.core import FitRecord
from trimodal.data import BatchLimits, part_batch
from trimodal.methods.distill.trained_parts import TRAIN_HELP, TRAINED_PARTS, TrainedPart, free_parameters
from trimodal.methods.method import Method
from trimodal.methods.options import option
from trimodal.models.foreign import run_forward
from trimodal.models.model import Batch, Model
from trimodal.training.batchwise import train_on_batches
from trimodal.training.distilling import (
    DistillationWeights,
    compute_distillation_loss,
    find_real_tokens,
    record_block_outputs,
)
from trimodal.training.settings import EngineSettings
from trimodal.training.steps import StepRecord


@dataclass(frozen=True)
class TeachingOptions:
    """How a model learns from the original, whatever of it is trained."""

    steps: int = option(300, "optimizer steps", low=1, unit="steps", search=(100, 300, 1000))
    logits: float = option(1.0, "weight of the scores' divergence", low=0.0)
    embeddings: float = option(1.0, "weight of the embeddings' distance", low=0.0)
    features: float = option(0.5, "weight of the blocks' relative distance", low=0.0)
    temperature: float = option(2.0, "softens both score distributions", low=0.1, high=20.0)
    learning_rate: float = option(5e-4, "highest learning rate", low=1e-8, high=1.0, search=(1e-4, 5e-4, 1e-3))
    schedule: Literal["cosine", "linear", "constant"] = option(
        "cosine", "how the learning rate goes on from its highest", choices=("cosine", "linear", "constant")
    )
    batch: int = option(64, "samples per step", low=1, unit="samples")


@dataclass(frozen=True)
class DistillConfig(TeachingOptions):
    """Options of `distill`."""

    train: TrainedPart = option("all", TRAIN_HELP, choices=TRAINED_PARTS, search=("all", "small"))


def fit(
    student: Model, teacher: Model, batches: Callable[[int], Sequence[Batch]], config: DistillConfig, seed: int
) -> Iterator[FitRecord]:
    """Train `student` in place towards `teacher`, in a new seeded order each time round the data.

    `batches(size)` gives all calibration data in batches of `size` samples.
    """
    with free_parameters(student.module, student.layout, config.train, METHOD.name):
        records = train_student(student, teacher, batches, config, seed)
    for record in records:
        yield FitRecord(0, METHOD.name, record.step, {"loss": record.loss, **record.parts}, record.seconds)


def train_student(
    student: Model, teacher: Model, batches: Callable[[int], Sequence[Batch]], config: TeachingOptions, seed: int
) -> list[StepRecord]:
    """Train the parameters of `student` that ask for gradients towards `teacher`; a record per step."""
    data = batches(config.batch)
    outputs = teacher.family.outputs(teacher.module)
    weights = DistillationWeights(config.logits, config.embeddings, config.features, config.temperature)
    teacher.module.eval()
    order = _shuffle_batches(len(data), config.steps, seed)
    settings = EngineSettings(
        steps=config.steps, learning_rate=config.learning_rate, schedule=config.schedule, weight_decay=0.0, seed=seed,
        frozen_noise=True,
    )  # fmt: skip
    with record_block_outputs(teacher) as expected, record_block_outputs(student, teacher.layout) as found:

        def compute_loss(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
            expected.clear()  # a block that this batch does not reach must not be compared by the last one's states
            found.clear()
            with torch.no_grad():
                teaching = run_forward(teacher.module, batch)
            real, answer = find_real_tokens(teacher, batch), run_forward(module, batch)
            return compute_distillation_loss(outputs, batch, (teaching, expected), (answer, found), weights, real)

        def part(batch: Batch) -> list[Batch]:
            return _part_batch(teacher, batch, config.batch)

        return train_on_batches(student.module, lambda number: data[order[number]], compute_loss, settings, part=part)


def _part_batch(model: Model, batch: Batch, size: int) -> list[Batch]:
    """The batch of at most `size` samples in parts that go through at once."""
    rows = min(size, max((len(value) for value in batch.values() if value.dim()), default=1))
    return [few for _, few in part_batch(model, batch, rows, BatchLimits(rows))]


def _shuffle_batches(count: int, steps: int, seed: int) -> list[int]:
    """Indices of `steps` batches: rounds of all `count` of them, each in a new order."""
    generator = torch.Generator().manual_seed(seed)
    rounds = [torch.randperm(count, generator=generator) for _ in range(-(-steps // count))]
    indices: list[int] = torch.cat(rounds)[:steps].tolist()
    return indices


METHOD = Method(
    name="distill",
    kind="distill",
    paper="Hinton, Vinyals, Dean 2015, arXiv 1503.02531; FitNets, Romero et al. 2015, arXiv 1412.6550",
    idea="Train what is left of the model to give the original's scores and inner states; no labels needed.",
    config=DistillConfig,
    on="model",
    fit=fit,
)

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
float32 and rounded to the float16 that is stored when training is done. Fails with too little data: it then fits the
calibration set. Departs from common code: the KL is a mean over rows, never over classes, so that T and the vocabulary's
size do not change its weight.

By hand. One row, two classes, T = 1: t = (0, 0), s = (ln 3, 0): softmax(t) = (½, ½), softmax(s) = (¾, ¼),
KL = ½ ln(½/¾) + ½ ln(½/¼) = ½ ln(4/3) = 0.143841.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimodal.core import FitRecord, Layout
from trimodal.data import BatchLimits, part_batch
from trimodal.errors import RecipeError
from trimodal.layers import CodedWeight
from trimodal.methods.method import Method
from trimodal.methods.options import option
from trimodal.models.foreign import run_forward
from trimodal.models.model import Batch, Model, Output
from trimodal.training.loop import TrainSettings, TrainStepRecord, train_model

_EPSILON = 1e-12


@dataclass(frozen=True)
class DistillConfig:
    """Options of `distill`."""

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


def score_distance(teacher: Tensor, student: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """T² · KL(teacher ‖ student) for scores (..., classes), mean over rows; rows where `mask` (...) is 0 left out."""
    expected = functional.log_softmax(teacher / temperature, dim=-1).flatten(0, -2)
    found = functional.log_softmax(student / temperature, dim=-1).flatten(0, -2)
    rows = functional.kl_div(found, expected, reduction="none", log_target=True).sum(-1)
    if mask is not None and mask.numel() == rows.numel():
        rows = rows[mask.flatten() > 0]
    return rows.mean() * temperature**2


def feature_distance(teacher: Tensor, student: Tensor, mask: Tensor | None = None) -> Tensor:
    """‖h_s − h_t‖² / ‖h_t‖² over the tokens (batch, tokens, width) where `mask` (batch, tokens) is True."""
    if mask is not None and teacher.shape[: mask.dim()] == mask.shape:
        teacher, student = teacher[mask], student[mask]
    return (student - teacher).square().sum() / teacher.square().sum().clamp(min=_EPSILON)


def embedding_distance(teacher: Tensor, student: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 − cos(teacher, student) for vectors (..., width), mean over rows; rows where `mask` (...) is 0 left out.

    A map (batch, channels, height, width) counts as one vector per sample.
    """
    if teacher.dim() == 4:
        teacher, student = teacher.flatten(1), student.flatten(1)
    rows = 1 - functional.cosine_similarity(teacher, student, dim=-1).flatten()
    if mask is not None and mask.numel() == rows.numel():
        rows = rows[mask.flatten() > 0]
    return rows.mean()


def box_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean |difference| of where boxes (batch, boxes, 6; see `models/boxes.py`) lie, those more that the teacher is sure of: a scalar.

    Box for box, which two-stage detectors do not put in the same order; their scores and features are held to the teacher's all the same.
    """
    sure = teacher[..., 4:5]
    apart = (teacher[..., :4] - student[..., :4]).abs()
    return (sure * apart).sum() / (4 * sure.sum()).clamp(min=_EPSILON)


def number_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """E(teacher − student)² / E teacher², a scalar, for one number per sample, whose cosine would be a sign."""
    size = teacher.square().mean().clamp(min=torch.finfo(teacher.dtype).tiny)
    return (teacher - student).square().mean() / size


@contextmanager
def unfreeze_codebook_levels(module: nn.Module) -> Iterator[None]:
    """While open, the learned levels of codebooks are parameters; afterwards they are what is stored again."""
    books = [part for part in module.modules() if isinstance(part, CodedWeight) and part.has_own_levels]
    for book in books:
        book.unfreeze_levels_()
    try:
        yield
    finally:
        for book in books:
            book.freeze_levels_()


@contextmanager
def record_block_outputs(model: Model, original: Layout | None = None) -> Iterator[dict[str, Tensor]]:
    """While open, every forward leaves each block's output (batch, tokens, width) under the path that the block has in `original`,
    which may have more of them; without it the path that it has."""
    seen: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        known = path if original is None else model.layout.find_original_path(original, path)

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[known] = output if isinstance(output, Tensor) else output[0]

        return hook

    paths = [path for tower in model.layout.towers for path in tower.blocks]
    handles = [model.module.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def compute_distillation_loss(
    outputs: Sequence[Output], batch: Batch, teacher: tuple[Any, Mapping[str, Tensor]],
    student: tuple[Any, Mapping[str, Tensor]], config: DistillConfig, real: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The loss and its parts; `teacher` and `student` are each (model output, block outputs), `real` (batch, tokens)
    says by block which tokens are no padding."""
    terms: dict[str, list[Tensor]] = {"logits": [], "embeddings": [], "features": []}
    for output in outputs:
        expected, found = (output.select_tensor(side[0]) for side in (teacher, student))
        if expected is None or found is None:
            continue
        mask = batch.get(output.mask)
        if output.is_one_number(expected):
            terms["embeddings"].append(number_distance(expected, found))
        elif output.kind == "boxes":
            terms["embeddings"].append(box_distance(expected, found))
        elif output.kind == "embedding":
            terms["embeddings"].append(embedding_distance(expected, found, mask))
        else:
            terms["logits"].append(score_distance(expected, found, config.temperature, mask))
    if config.features:
        masks = real or {}
        terms["features"] = [
            feature_distance(h, student[1][path], masks.get(path))
            for path, h in teacher[1].items()
            if path in student[1] and student[1][path].shape == h.shape  # merged tokens are fewer, as blocks may be
        ]
    parts = {name: torch.stack(values).mean() for name, values in terms.items() if values}
    weighed = [getattr(config, name) * value for name, value in parts.items()]
    return {"loss": torch.stack(weighed).sum(), **parts}


def fit(
    student: Model, teacher: Model, batches: Callable[[int], Sequence[Batch]], config: DistillConfig, seed: int
) -> Iterator[FitRecord]:
    """Train `student` in place towards `teacher`, in a new seeded order each time round the data.

    `batches(size)` gives all calibration data in batches of `size` samples.
    """
    with unfreeze_codebook_levels(student.module):
        records = _train_student(student, teacher, batches, config, seed)
    for record in records:
        yield FitRecord(0, METHOD.name, record.step, {"loss": record.loss, **record.parts}, record.seconds)


def _train_student(
    student: Model, teacher: Model, batches: Callable[[int], Sequence[Batch]], config: DistillConfig, seed: int
) -> list[TrainStepRecord]:
    if not any(parameter.requires_grad for parameter in student.module.parameters()):
        raise RecipeError("distill: no weight of the model is left to train; put it before the steps that quantize")
    data = batches(config.batch)
    outputs = teacher.family.outputs(teacher.module)
    teacher.module.eval()
    order = _shuffle_batches(len(data), config.steps, seed)
    settings = TrainSettings(
        steps=config.steps, learning_rate=config.learning_rate, schedule=config.schedule, weight_decay=0.0, seed=seed,
        frozen_noise=True,
    )  # fmt: skip
    with record_block_outputs(teacher) as expected, record_block_outputs(student, teacher.layout) as found:

        def step(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
            expected.clear()  # a block that this batch does not reach must not be compared by the last one's states
            found.clear()
            with torch.no_grad():
                teaching = run_forward(teacher.module, batch)
            real = {path: codes >= 0 for path, codes in _get_block_tokens(teacher, batch).items()}
            return compute_distillation_loss(outputs, batch, (teaching, expected), (run_forward(module, batch), found), config, real)

        def part(batch: Batch) -> list[tuple[float, Batch]]:
            return _part_batch(teacher, batch, config.batch)

        return train_model(student.module, lambda number: data[order[number]], step, settings, part=part)


def _part_batch(model: Model, batch: Batch, size: int) -> list[tuple[float, Batch]]:
    """The batch of at most `size` samples in parts that go through at once, each with its share of the samples."""
    rows = min(size, max((len(value) for value in batch.values() if value.dim()), default=1))
    return [((one.stop - one.start) / rows, few) for one, few in part_batch(model, batch, rows, BatchLimits(rows))]


def _get_block_tokens(model: Model, batch: Batch) -> dict[str, Tensor]:
    """What each token is, by the path of every block whose tower the family speaks of."""
    codes = model.family.tokens(model.module, batch)
    return {path: codes[tower.name] for tower in model.layout.towers if tower.name in codes for path in tower.blocks}


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

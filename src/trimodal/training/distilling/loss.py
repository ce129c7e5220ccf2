"""The loss of distillation: a weighed sum of distances between what student and teacher give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimodal.models.model import Batch, Output
from trimodal.training.distilling.distances import (
    box_distance,
    embedding_distance,
    feature_distance,
    number_distance,
    score_distance,
)


@dataclass(frozen=True)
class DistillationWeights:
    """What each kind of distance counts, 0 for not at all: `logits` the scores', `embeddings` the vectors', `features` the blocks';
    `temperature` softens both score distributions."""

    logits: float = 1.0
    embeddings: float = 1.0
    features: float = 0.5
    temperature: float = 2.0


def compute_distillation_loss(
    outputs: Sequence[Output], batch: Batch, teacher: tuple[Any, Mapping[str, Tensor]],
    student: tuple[Any, Mapping[str, Tensor]], weights: DistillationWeights, real: Mapping[str, Tensor] | None = None,
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
            terms["logits"].append(score_distance(expected, found, weights.temperature, mask))
    if weights.features:
        masks = real or {}
        terms["features"] = [
            feature_distance(h, student[1][path], masks.get(path))
            for path, h in teacher[1].items()
            if path in student[1] and student[1][path].shape == h.shape  # merged tokens are fewer, as blocks may be
        ]
    parts = {name: torch.stack(values).mean() for name, values in terms.items() if values}
    weighed = [getattr(weights, name) * value for name, value in parts.items()]
    return {"loss": torch.stack(weighed).sum(), **parts}

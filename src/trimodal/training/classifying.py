"""Classification: the cross-entropy of every output of class scores whose labels the samples have.

A model that fuses modalities may have several, such as the answer and what each tower alone says; they count alike, label for label.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimodal.core import Sample
from trimodal.data import collect_labels, encode_samples
from trimodal.errors import DataError
from trimodal.models.foreign import run_forward
from trimodal.models.model import Model, Output
from trimodal.training.objective import IGNORED, LABELS, Batch, Drawn, Objective, count_labels, split_labels


def make_classify(model: Model, samples: Sequence[Sample]) -> Objective:
    """The objective for `model`, whose classes the labels of `samples` must fit.

    Raises:
        DataError: the model scores no classes, no sample has a label, or one is none of the model's classes.
    """
    outputs = [o for o in model.family.outputs(model.module) if o.kind == "logits" and o.label]
    outputs = [o for o in outputs if any(label is not None for label in collect_labels(samples, o.label))]
    if not outputs:
        raise DataError(
            f"no line of the data has a label that {type(model.module).__name__} scores; task: classify needs `label` in every line, "
            "and a class with a classifier, such as ViTForImageClassification"
        )
    _check_classes(model, samples, outputs)
    return Objective("classify", partial(_encode, model, outputs), partial(_compute_loss, outputs), count_labels)


def _check_classes(model: Model, samples: Sequence[Sample], outputs: Sequence[Output]) -> None:
    with torch.no_grad():
        result = run_forward(model.module.eval(), encode_samples(model, samples[:1]))
    for output in outputs:
        scores = output.select_tensor(result)
        classes = 0 if scores is None else scores.shape[-1]
        for sample, label in zip(samples, collect_labels(samples, output.label), strict=True):
            if label is not None and label >= classes:
                raise DataError(
                    f"{sample.where}: {output.label} is {label}, but {type(model.module).__name__} has {classes} classes; expected 0 to "
                    f"{classes - 1}: give the model as a mapping with `from` or `class`, which makes a classifier for the data's classes"
                )


def _encode(model: Model, outputs: Sequence[Output], drawn: Sequence[Drawn]) -> dict[str, Tensor]:
    """The inputs, and `labels` int64 (batch, outputs), ignored where a sample has none."""
    samples = [sample for _, sample in drawn]
    columns = [[IGNORED if label is None else label for label in collect_labels(samples, output.label)] for output in outputs]
    batch = {name: value for name, value in encode_samples(model, samples).items() if name != LABELS}
    device = next(iter(batch.values())).device
    return {**batch, LABELS: torch.tensor(columns, dtype=torch.long, device=device).T.contiguous()}


def _compute_loss(outputs: Sequence[Output], module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    inputs, labels = split_labels(batch)
    result = module(**inputs)
    sums = {}
    for column, output in enumerate(outputs):
        scores = output.select_tensor(result)
        if scores is not None:
            sums[output.field] = functional.cross_entropy(scores.float(), labels[:, column], ignore_index=IGNORED, reduction="sum")
    return {"loss": torch.stack(list(sums.values())).sum() / max(1, count_labels(batch)), **sums}

"""Segmentation: which class is every pixel?

    L = CE + (1 − Dice)       Dice = mean over the classes c that a sample shows of (2 Σ p g + 1) / (Σ p + Σ g + 1), p = softmax, g = mask

Cross-entropy is the mean over a sample's labelled pixels, Dice (Milletari et al. 2016, arXiv 1606.04797) is taken of each sample, and
samples count alike: so a step's loss does not depend on how it is parted, and a small shape counts as much as a large one. A map of scores
that is smaller than the image, as SegFormer's, is brought to its size by bilinear interpolation; masks are brought there by the nearest
pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimodal.core import Sample
from trimodal.data import encode_samples, load_masks
from trimodal.errors import DataError, InputError
from trimodal.models.foreign import run_forward
from trimodal.models.maps import enlarge_map, find_image_size
from trimodal.models.model import Model, Output
from trimodal.training.objective import IGNORED, LABELS, Batch, Drawn, Objective, count_rows, split_labels

_SMOOTH = 1.0


def make_segment(model: Model, samples: Sequence[Sample]) -> Objective:
    """The objective for `model`, which scores every place of an image, by the masks of `samples`.

    Raises:
        InputError: the model gives no map of scores, or its processor crops, which masks would not follow.
        DataError: a sample has no mask.
    """
    output = next((found for found in model.family.outputs(model.module) if found.kind == "tokens" and found.rows == "pixel"), None)
    if output is None:
        raise InputError(
            f"{type(model.module).__name__} gives no scores of pixels; task: segment needs a class such as "
            'SegformerForSemanticSegmentation, or a module of your own with outputs = (Output("output", "image", "tokens", rows="pixel"),)'
        )
    for sample in samples:
        if sample.mask is None:
            raise DataError(f"{sample.where}: no mask; task: segment needs one in every line, an image whose values are classes")
    _check_processor(model)
    classes = _count_classes(model, output, samples[:1])
    return Objective("segment", partial(_encode, model, classes), partial(_compute_loss, output), count_rows)


def _check_processor(model: Model) -> None:
    """Refuse what shows the model another part of an image than its mask does."""
    processor: Any = model.processors.image
    if getattr(processor, "do_center_crop", False) and getattr(processor, "do_resize", False):
        raise InputError(
            f"{type(processor).__name__} crops its images, which masks would not follow; set do_center_crop: false and a size of "
            "height and width in model.processors.image"
        )


def _count_classes(model: Model, output: Output, samples: Sequence[Sample]) -> int:
    """How many classes the model scores."""
    with torch.no_grad():
        result = run_forward(model.module.eval(), encode_samples(model, samples))
    found = output.select_map(result)
    if found is None:
        raise InputError(f"{type(model.module).__name__} gives no map (batch, classes, height, width) called {output.field}")
    return int(found.shape[1])


def _encode(model: Model, classes: int, drawn: Sequence[Drawn]) -> dict[str, Tensor]:
    """The inputs, and `labels` int64 (batch, height, width), of the size of the image that the model is shown."""
    samples = [sample for _, sample in drawn]
    batch = {name: value for name, value in encode_samples(model, samples).items() if name != LABELS}
    size = find_image_size(batch)
    labels = load_masks(samples, size)
    if int(labels.max()) >= classes:
        row = int(labels.flatten(1).amax(dim=1).ge(classes).nonzero()[0])
        raise DataError(
            f"{samples[row].where}: the mask holds class {int(labels[row].max())}, but {type(model.module).__name__} scores {classes}; "
            f"expected 0 to {classes - 1}, or 255 for no class"
        )
    return {**batch, LABELS: labels.to(next(iter(batch.values())).device)}


def _compute_loss(output: Output, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    inputs, labels = split_labels(batch)
    found = output.select_map(module(**inputs))
    assert found is not None  # it was there when the objective was made
    scores = enlarge_map(found.float(), (labels.shape[1], labels.shape[2]))
    right = compute_pixel_loss(scores, labels)
    dice = 1 - compute_soft_dice(scores.softmax(dim=1), labels)
    return {"loss": (right + dice).mean(), "cross_entropy": right.mean(), "dice_loss": dice.mean()}


def compute_pixel_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of `scores` (batch, classes, height, width) against `labels` int64 (batch, height, width), the mean over each sample's
    labelled pixels: (batch,)."""
    each = functional.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="none").flatten(1)
    return each.sum(dim=1) / (labels != IGNORED).flatten(1).sum(dim=1).clamp(min=1)


def compute_soft_dice(shares: Tensor, labels: Tensor) -> Tensor:
    """The mean over the classes that a sample shows of (2 Σ p g + 1) / (Σ p + Σ g + 1): (batch,).

    `shares` p (batch, classes, height, width) sum to 1 over the classes, `labels` int64 (batch, height, width).

        One pixel of class 0, p = (0.5, 0.5): (2 · 0.5 + 1) / (0.5 + 1 + 1) = 0.8.
    """
    known = (labels != IGNORED)[:, None]  # (batch, 1, height, width)
    right = functional.one_hot(labels.clamp(min=0), shares.shape[1]).permute(0, 3, 1, 2) * known  # (batch, classes, height, width)
    both, said, there = ((part * known).sum(dim=(2, 3)) for part in (shares * right, shares, right))  # (batch, classes) each
    dice = (2 * both + _SMOOTH) / (said + there + _SMOOTH)
    shown = there > 0
    return (dice * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1)

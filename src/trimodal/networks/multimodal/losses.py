"""Losses of a multimodal model: classes, numbers, and two streams that are told by each other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

NO_LABEL = -100


def compute_label_losses(logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], further: float) -> list[Tensor]:
    """Cross-entropies, scalars: of the main labels (called `""`) as it is, of each further set `further` times. Logits (B, classes), labels
    int64 (B,), of which -100 counts for nothing.

    Raises:
        ValueError: labels are given of a set for which there is no head.
    """
    losses = []
    for name, label in labels.items():
        if name not in logits:
            raise ValueError(f"{f'{name}_labels' if name else 'labels'} are given, and the model has no such set; see label_sets.")
        score, known = logits[name].float(), label != NO_LABEL
        losses.append((further if name else 1.0) * F.cross_entropy(score, label, reduction="sum") / known.sum().clamp(min=1))
    return losses


def compute_regression_loss(values: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error over the targets (B, n) that are finite: others are unknown. A scalar."""
    targets = targets.reshape(values.shape).to(values.dtype)
    known = targets.isfinite()
    return (torch.where(known, values - torch.where(known, targets, 0.0), 0.0) ** 2).sum() / known.sum().clamp(min=1)


def compute_contrastive_loss(left: Tensor, right: Tensor, scale: Tensor, both: Tensor) -> Tensor:
    """The symmetric cross-entropy of finding for each row of `left` (B, D) its own of `right` (B, D), both of length one, in the batch;
    `scale` multiplies the cosines. Rows that are not in `both` (B,) bool are no question and no answer. Radford et al. 2021, arXiv
    2103.00020. A scalar."""
    scores = (scale * left @ right.T).float()
    hidden = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~(both[:, None] & both[None, :]), hidden)
    own = torch.arange(len(scores), device=scores.device).masked_fill(~both, NO_LABEL)
    count = both.sum().clamp(min=1)
    ways = [F.cross_entropy(side, own, ignore_index=NO_LABEL, reduction="sum") / count for side in (scores, scores.T)]
    return (ways[0] + ways[1]) / 2

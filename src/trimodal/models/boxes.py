"""Boxes that a detector found, as one tensor: where each lies, how sure the detector is, and what it calls it."""

from __future__ import annotations

import torch
from torch import Tensor


def join_boxes(boxes: Tensor, scores: Tensor, blank: bool) -> Tensor:
    """(batch, boxes, 6): the box, its certainty in [0, 1], its class.

    Args:
        boxes: (batch, boxes, 4): middle x, middle y, width, height, as shares of the image.
        scores: (batch, boxes, classes).
        blank: whether the last class is nothing, beside which the others are weighed; else each class is for itself.
    """
    scores = scores.float()
    known = scores.softmax(-1)[..., :-1] if blank else scores.sigmoid()
    sure, kind = known.max(dim=-1)
    return torch.cat([boxes.float(), sure[..., None], kind[..., None].to(boxes.device).float()], dim=-1)


def measure_overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of each box in `first` (m, 4) with each in `second` (n, 4): (m, n), where boxes are middle x, middle y,
    width, height. Two boxes without any area do not overlap."""
    (low, high), (other_low, other_high) = (_find_corners(boxes) for boxes in (first, second))
    shared = torch.minimum(high[:, None], other_high[None]) - torch.maximum(low[:, None], other_low[None])
    common = shared.clamp(min=0).prod(dim=-1)
    whole = (high - low).prod(-1)[:, None] + (other_high - other_low).prod(-1)[None] - common
    return common / whole.clamp(min=torch.finfo(whole.dtype).tiny)


def _find_corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The corners nearest to and farthest from the origin, (boxes, 2) each."""
    half = boxes[:, 2:4].clamp(min=0) / 2
    return boxes[:, :2] - half, boxes[:, :2] + half

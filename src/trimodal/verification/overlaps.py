"""How well what a model says of pixels lies over their masks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trimodal.models.encoding import NO_LABEL


def overlap_with_mask(said: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Dice and IoU of each sample, in percent: (batch,) each, the mean over the classes that its mask or the answer shows.

    `said` (batch, pixels) are the classes that are ranked first, -1 where a score is not finite; `mask` int64 (batch, pixels), `NO_LABEL`
    where nothing counts.

        mask (0, 0, 1, 1), said (0, 1, 1, 1): class 0 Dice 2/3 and IoU 1/2, class 1 Dice 4/5 and IoU 2/3.
    """
    scores = np.array([_overlap_one(*pair) for pair in zip(said.cpu(), mask.cpu(), strict=True)])
    return scores[:, 0], scores[:, 1]


def _overlap_one(said: Tensor, mask: Tensor) -> tuple[float, float]:
    """Dice and IoU of one sample's (pixels,)."""
    known = mask != NO_LABEL
    found, right = said[known] + 1, mask[known] + 1  # 0 is then no class
    classes = int(torch.maximum(found.max(), right.max())) + 1
    hits = torch.bincount(right[found == right], minlength=classes)[1:].double()
    either = (torch.bincount(found, minlength=classes) + torch.bincount(right, minlength=classes))[1:] - hits
    shown = either > 0
    hits, either = hits[shown], either[shown]
    return 100 * float((2 * hits / (either + hits)).mean()), 100 * float((hits / either).mean())

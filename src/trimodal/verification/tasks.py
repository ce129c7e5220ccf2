"""Scores per sample: each function compares outputs and returns one number per sample, and knows no model.

Accuracy and agreement are 0 or 100 (percent of one sample), cosines lie in [−1, 1]. An output that is not finite
is never right and agrees with nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trimodal.models.boxes import measure_overlaps
from trimodal.models.encoding import NO_LABEL
from trimodal.models.pooling import resize_mask


def accuracy(logits: Tensor, labels: Tensor) -> np.ndarray:
    """100 where the highest of `logits` (batch, classes) stands at `labels` (batch,), else 0: (batch,)."""
    right = (logits.argmax(dim=-1) == labels) & _is_finite_row(logits)
    return _to_percent(right)


def top1_agreement(reference: Tensor, other: Tensor) -> np.ndarray:
    """100 where both (batch, classes) have their highest score at the same class, else 0: (batch,)."""
    same = (reference.argmax(dim=-1) == other.argmax(dim=-1)) & _is_finite_row(reference) & _is_finite_row(other)
    return _to_percent(same)


def top1_tokens(scores: Tensor) -> Tensor:
    """Which token each position of (batch, tokens, vocabulary) ranks first, -1 where a score is not finite: (batch, tokens).

    Sample by sample, since a vocabulary's scores fill memory, and without a copy in another type.
    """
    found = torch.empty(scores.shape[:-1], dtype=torch.long, device=scores.device)
    for sample, into in zip(scores.detach(), found, strict=True):
        least, most = sample.aminmax(dim=-1)
        finite = torch.isfinite(least) & torch.isfinite(most)
        into.copy_(torch.where(finite, sample.argmax(dim=-1), -1))
    return found


def token_agreement(reference: Tensor, other: Tensor, mask: Tensor | None) -> np.ndarray:
    """Percent of a sample's unmasked tokens for which both (batch, tokens) ranked the same first: (batch,).

    `mask` is (batch, tokens), nonzero where a token counts; all count where it is None. A sample without a token
    that counts scores 100.
    """
    same = (reference == other) & (reference >= 0)  # (batch, tokens)
    counts = torch.ones_like(same) if mask is None else resize_mask(mask, same.shape[1]).bool()
    total = counts.sum(dim=1)
    share = (same & counts).sum(dim=1) / total.clamp(min=1)
    return torch.where(total == 0, 1.0, share.double()).mul(100).cpu().numpy()


def answer_accuracy(said: Tensor, labels: Tensor) -> np.ndarray:
    """100 where every labelled token is the one that the position before it ranked first, else 0: (batch,).

    `said` (batch, tokens) are the tokens ranked first, -1 where a score was not finite; `labels` (batch, tokens), `NO_LABEL` where nothing
    counts. Greedy decoding, which is given its own right tokens, then says the whole target and nothing else.
    """
    right = (said[:, :-1] == labels[:, 1:]) | (labels[:, 1:] == NO_LABEL)
    return _to_percent(right.all(dim=1))


def box_agreement(reference: Tensor, other: Tensor) -> np.ndarray:
    """Percent by which a sample's boxes (batch, boxes, 6; see `join_boxes`) lie where those of the other model do: (batch,).

    Of each box of `reference` the overlap with the nearest of `other` that is called the same, weighed by how sure `reference` is. Boxes
    need not come in the same order. A sample without any sure box scores 100.
    """
    return np.array([_agree_on_boxes(*pair) for pair in zip(reference.double(), other.double(), strict=True)])  # few fill memory


def _agree_on_boxes(reference: Tensor, other: Tensor) -> float:
    """`box_agreement` of one sample's boxes (boxes, 6)."""
    overlaps = measure_overlaps(reference[:, :4], other[:, :4])  # (boxes, boxes)
    alike = (reference[:, None, :4] == other[None, :, :4]).all(dim=-1)  # also such as have no area
    same = reference[:, None, 5] == other[None, :, 5]
    best = torch.where(same & overlaps.isfinite(), torch.where(alike, 1.0, overlaps), 0.0).amax(dim=-1)  # (boxes,)
    sure = reference[:, 4].nan_to_num()
    return 100.0 if not float(sure.sum()) else 100 * float((best * sure).sum() / sure.sum())


def cosine_similarity(reference: Tensor, other: Tensor) -> np.ndarray:
    """Cosine between the rows of two (batch, width), in float64: (batch,). Two zero rows have cosine 1, a zero row
    and another have 0, and so has a row that is not finite."""
    a, b = reference.double().flatten(1), other.double().flatten(1)
    finite = torch.isfinite(a).all(dim=1) & torch.isfinite(b).all(dim=1)
    a, b = torch.nan_to_num(a, posinf=0, neginf=0), torch.nan_to_num(b, posinf=0, neginf=0)
    lengths = a.norm(dim=1) * b.norm(dim=1)
    value = (a * b).sum(dim=1) / lengths.clamp(min=torch.finfo(torch.float64).tiny)
    value = torch.where((a.norm(dim=1) == 0) & (b.norm(dim=1) == 0), 1.0, value).clamp(-1, 1)
    return torch.where(finite, value, 0.0).cpu().numpy()


def number_similarity(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How alike two models' single numbers (samples,) are: (samples,), 1 where they are equal.

    The cosine between (a − m, s) and (b − m, s), with m the mean and s the standard deviation of `reference`; of numbers that are
    all alike s is their size. As with vectors, an error of a small share e of s costs ½ e² at most. 0 where one is not finite.

        reference (1, −1), other (1, 1): m = 0, s = 1; (1, 1)·(1, 1) / 2 = 1 and (−1, 1)·(1, 1) / 2 = 0.
    """
    finite = np.isfinite(reference) & np.isfinite(other)
    seen = reference[np.isfinite(reference)]
    middle = float(seen.mean()) if seen.size else 0.0
    spread = (float(seen.std()) or abs(middle)) if seen.size else 0.0
    a, b = (np.where(finite, values, middle) - middle for values in (reference, other))
    lengths = np.hypot(a, spread) * np.hypot(b, spread)
    value = (a * b + spread * spread) / np.maximum(lengths, np.finfo(np.float64).tiny)
    exact = np.where(a == b, 1.0, np.clip(value, -1.0, 1.0))
    return np.where(finite, exact, 0.0)


def recall_at_1(queries: np.ndarray, gallery: np.ndarray, wanted: Sequence[frozenset[int]]) -> np.ndarray:
    """100 where the nearest row of `gallery` is one of those `wanted` for the query, else 0 (recall at 1).

    Args:
        queries: (queries, width), not necessarily of unit length.
        gallery: (items, width).
        wanted: for each query the indices of the right items.
    """
    nearest = (_normalize_rows(queries) @ _normalize_rows(gallery).T).argmax(axis=1)  # (queries,)
    return np.array([100.0 if int(item) in right else 0.0 for item, right in zip(nearest, wanted, strict=True)])


def _normalize_rows(rows: np.ndarray) -> np.ndarray:
    rows = np.nan_to_num(rows.astype(np.float64), posinf=0.0, neginf=0.0)
    lengths: np.ndarray = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.maximum(lengths, np.finfo(np.float64).tiny)
    return unit


def _is_finite_row(values: Tensor) -> Tensor:
    return torch.isfinite(values).all(dim=-1)


def _to_percent(right: Tensor) -> np.ndarray:
    return right.double().mul(100).cpu().numpy()

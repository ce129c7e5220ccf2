"""Batches for calibration: as large as products gain from, and no larger."""

from __future__ import annotations

from collections.abc import Sequence

from trimodal.core import Sample
from trimodal.data import batch_samples as make_batches
from trimodal.models.model import Batch, Model

BATCH_SIZE, BATCH_TOKENS = 32, 2048


def make_sized_batches(model: Model, samples: Sequence[Sample]) -> Sequence[Batch]:
    """The samples in batches of at most 32, fewer where a batch would have more than 2,048 tokens: products are no faster
    beyond that, and what layers give to each other stays small."""
    if not samples:
        return []
    found = make_batches(model, samples, BATCH_SIZE)
    tokens = (codes.shape[1] for batch in found for codes in model.family.tokens(model.module, batch).values())
    longest = max(tokens, default=0)
    if longest * BATCH_SIZE <= BATCH_TOKENS:
        return found
    return make_batches(model, samples, max(1, BATCH_TOKENS // longest))

"""Batches for calibration: as large as products gain from, and no larger."""

from __future__ import annotations

from collections.abc import Sequence

from trimodal.core import Sample
from trimodal.data import CALIBRATION, CALIBRATION_BYTES, count_tokens
from trimodal.data import batch_samples as make_batches
from trimodal.models.model import Batch, Model


def make_sized_batches(model: Model, samples: Sequence[Sample]) -> Sequence[Batch]:
    """The samples in batches within the limits of calibration. The longest of all decides, so each is encoded once to see."""
    if not samples:
        return []
    found = make_batches(model, samples, CALIBRATION.samples, kept_bytes=CALIBRATION_BYTES)
    size = CALIBRATION.rows_at_once(max(count_tokens(model, batch) for batch in found))
    return found if size == CALIBRATION.samples else make_batches(model, samples, size, kept_bytes=CALIBRATION_BYTES)

"""Batches for calibration: as large as products gain from, and no larger."""

from __future__ import annotations

from collections.abc import Sequence

from trimodal.core import Sample
from trimodal.data import CALIBRATION, CALIBRATION_BYTES, fit_batch_size
from trimodal.data import batch_samples as make_batches
from trimodal.models.model import Batch, Model


def make_sized_batches(model: Model, samples: Sequence[Sample]) -> Sequence[Batch]:
    """The samples in batches within the limits of calibration. The longest of all decides, so each is encoded once to see."""
    if not samples:
        return []
    found = make_batches(model, samples, CALIBRATION.samples, kept_bytes=CALIBRATION_BYTES)
    size = fit_batch_size(model, found, CALIBRATION)
    return found if size == CALIBRATION.samples else make_batches(model, samples, size, kept_bytes=CALIBRATION_BYTES)

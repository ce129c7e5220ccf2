"""One model by itself: what it gets right, by the very metrics that compare two."""

from __future__ import annotations

from collections.abc import Sequence

from trimodal.core import Metric, Sample
from trimodal.models.model import Model
from trimodal.verification.comparison import compare_models

_RIGHT = ("accuracy", "retrieval", "Dice", "IoU")


def measure_model(model: Model, samples: Sequence[Sample], *, batch_size: int, seed: int = 0) -> list[Metric]:
    """Accuracies against labels, overlaps with masks and recalls of retrieval, `all` first; nothing that only likens a model to another.

    Args:
        model: put into eval mode, and left there.
        samples: what to measure on, at least one.
        batch_size: samples per forward pass, at most.
        seed: of intervals that are drawn.

    Raises:
        DataError: there is no sample, or it does not fit the model.
    """
    found = compare_models(model, model, samples, batch_size=batch_size, seed=seed).metrics
    return [metric for metric in found if any(word in metric.name for word in _RIGHT)]

"""The classes that samples are labelled with."""

from __future__ import annotations

from collections.abc import Sequence

from trimodal.core import Sample
from trimodal.errors import DataError


def collect_labels(samples: Sequence[Sample], path: str) -> list[int | None]:
    """What stands at `path` (`label`, or `labels.image`) in each sample; None where nothing does.

    Raises:
        DataError: `path` is neither.
    """
    if path == "label":
        return [sample.label for sample in samples]
    field, _, name = path.partition(".")
    if field != "labels" or not name:
        raise DataError(f"a label path is {path!r}; expected 'label' or 'labels.<name>'")
    return [sample.labels.get(name) for sample in samples]

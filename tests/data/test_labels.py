"""Labels by their path."""

from __future__ import annotations

import pytest

from trimodal.core import Sample
from trimodal.data import collect_labels
from trimodal.errors import DataError


def test_labels_follow_their_path() -> None:
    samples = [Sample(line=1, text="a", label=3, labels={"image": 7}), Sample(line=2, text="b")]
    assert collect_labels(samples, "label") == [3, None]
    assert collect_labels(samples, "labels.image") == [7, None]
    with pytest.raises(DataError):
        collect_labels(samples, "lables.image")

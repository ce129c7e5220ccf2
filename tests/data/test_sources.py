"""The one door: what samples can come from, and what all of them are checked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from datafiles import write

from trimodal.data import read_samples
from trimodal.errors import DataError


def test_refuses_a_missing_field_that_the_caller_needs(folder: Path) -> None:
    file = write(folder, {"text": "a", "label": 0}, {"text": "b"})
    assert len(read_samples(file, needs=frozenset({"text"}))) == 2
    with pytest.raises(DataError, match="line 2: no label"):
        read_samples(file, needs=frozenset({"text", "label"}))


def test_refuses_a_group_in_two_splits_and_half_given_splits(folder: Path) -> None:
    with pytest.raises(DataError, match="line 2: group 'g' is in split test, on line 1 in train"):
        lines = [{"text": "a", "group": "g", "split": split} for split in ("train", "test")]
        read_samples(write(folder, *lines))
    with pytest.raises(DataError, match="line 1: no split, while line 2 has one"):
        read_samples(write(folder, {"text": "a"}, {"text": "b", "split": "test"}))

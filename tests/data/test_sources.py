"""The one door: what samples can come from, and what all of them are checked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datafiles import write

from trimodal.core import Sample
from trimodal.data import SampleSource, is_no_data, open_source, read_samples
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


@pytest.mark.parametrize(("data", "found"), [
    (3, "the data is a int; expected a JSONL file"), (b"data.jsonl", "the data is a bytes"),
    ({"train": [], "test": []}, r"one dict with the keys \['train', 'test'\]; give one of its parts"),
    ([], "the given list holds no rows; expected one mapping per row"),
])  # fmt: skip
def test_refuses_what_samples_cannot_come_from(data: Any, found: str) -> None:
    with pytest.raises(DataError, match=found):
        read_samples(data)


@pytest.mark.parametrize("rows", [(row for row in ()), iter([]), map(dict, [])])
def test_an_iterator_without_rows_says_that_it_can_be_gone_through_once(rows: Any) -> None:
    with pytest.raises(DataError, match="gives no rows; it can be gone through once, and is used up or empty: give a new one") as caught:
        read_samples(rows)
    assert "JSON" not in str(caught.value)


def test_an_empty_source_of_ones_own_speaks_of_neither_lines_nor_rows() -> None:
    class Silence(Poems):
        def __iter__(self) -> Iterator[Sample]:
            return iter(())

    with pytest.raises(DataError, match=r"^the poems gives no samples; expected at least one$"):
        read_samples(Silence())


class Poems:
    """A source of somebody's own."""

    name = "the poems"
    origin = "the poems, verse"

    def __iter__(self) -> Iterator[Sample]:
        return (Sample(line, text=text, label=line if line < 3 else None) for line, text in enumerate(("a", "b", "c"), start=1))


def test_a_source_of_ones_own_needs_two_names_and_its_samples() -> None:
    poems = Poems()
    assert isinstance(poems, SampleSource) and open_source(poems) is poems
    assert [(s.text, s.where) for s in read_samples(poems)][1:] == [("b", "the poems, verse 2"), ("c", "the poems, verse 3")]
    with pytest.raises(DataError, match="the poems, verse 3: no label"):
        read_samples(poems, needs=frozenset({"label"}))


@pytest.mark.parametrize(("data", "no"), [(None, True), ("none", True), (Path("none"), True), ("data.jsonl", False), ([], False)])
def test_the_word_none_says_that_there_is_no_data(data: Any, no: bool) -> None:
    assert is_no_data(data) == no

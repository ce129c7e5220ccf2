"""The one door: what samples can come from, and what all of them are checked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from datafiles import write

from trimodal.core import Sample
from trimodal.data import SampleSource, find_data_place, is_no_data, open_data, open_source, read_samples, sources
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


# What a path is


def test_a_file_of_no_known_name_is_told_by_what_it_begins_with(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('\n {"text": "a"}\n')
    assert read_samples(tmp_path / "rows")[0].text == "a"


@pytest.mark.parametrize(("name", "content", "found"), [
    ("rows.xlsx", b"PK", r"rows\.xlsx is of no known kind \(its name ends in \.xlsx\); expected one of: a JSONL file.*a folder of images"),
    ("rows", b"", r"rows is empty \(0 bytes\)"), ("seven.png", b"x", r"seven\.png is one image or sound; give its folder"),
    ("deep/a/b/c/seven.png", b"x", r"deep holds no data\.jsonl \(no file\)"), ("s/a.xml", b"x", r"s holds no data\.jsonl \(1 \.xml\)"),
])  # fmt: skip
def test_what_is_of_no_kind_is_told(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=found):
        read_samples(tmp_path / Path(name).parts[0])


def test_a_missing_file_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    for name in (tmp_path / "a" / "rows.csv", "no/such.jsonl", "x" * 5000, "nul\0"):
        with pytest.raises(DataError, match="there is no file"):
            read_samples(name)


def test_where_data_lie() -> None:
    assert [find_data_place(data) for data in (None, "none", [], Poems())] == [None] * 4
    assert find_data_place("rows.csv") == Path("rows.csv")


def test_an_open_source_knows_its_place(folder: Path) -> None:
    file = write(folder, {"text": "a"})
    assert find_data_place(open_data(file)) == file == find_data_place(open_data(folder))


# Sources of others


@dataclass
class Point:
    """An entry point as installed packages have them."""

    load: Callable[[], Callable[[str], Any]]
    name: str = "poems"
    value: str = "poetry:open"


def install(monkeypatch: pytest.MonkeyPatch, function: Callable[[str], Any]) -> None:
    points = {("trimodal.sources", "poems"): [Point(lambda: function)]}
    monkeypatch.setattr(sources, "entry_points", lambda group, name: points.get((group, name), []))


def test_an_entry_point_opens_what_stands_behind_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda address: [{"verse": f"{address} {i}"} for i in range(2)])
    samples = read_samples(open_data("poems:by:Heine", map={"text": "verse"}))
    assert [s.text for s in samples] == ["by:Heine 0", "by:Heine 1"]
    with pytest.raises(DataError, match="there is no file novels:by"):
        open_data("novels:by")


def test_an_entry_point_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda address: 1 / 0)
    with pytest.raises(DataError, match=r"the source 'poems' \(poetry:open\) failed on 'x' \(ZeroDivisionError: division by zero\)"):
        open_data("poems:x")
    install(monkeypatch, lambda address: address)
    with pytest.raises(DataError, match=r"\(poetry:open\) returned a str; expected samples or rows"):
        open_data("poems:x")

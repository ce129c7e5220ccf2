"""Which column is which field: mapped, left out, told where no row has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datafiles import write

from trimodal.core import Sample
from trimodal.data import open_data, parse_map, read_samples
from trimodal.errors import DataError

ROWS = [{"idx": 7, "sentence": "a red bus", "y": 3, "split": "train"}, {"idx": 8, "sentence": "a dog", "y": None, "split": "test"}]


def test_a_map_renames_and_leaves_out_what_is_no_field(folder: Path) -> None:
    for data in (ROWS, write(folder, *ROWS)):
        first, second = read_samples(open_data(data, map={"text": "sentence", "label": "y"}))
        assert (first.text, first.label, first.split) == ("a red bus", 3, "train")
        assert (second.text, second.label, second.split) == ("a dog", None, "test")


@pytest.mark.parametrize(("fields", "columns", "expected"), [
    ({"label": None}, None, ("a", None, {})), ({"label": ""}, None, ("a", None, {})),
    ({}, ["text"], ("a", None, {})), (None, ("text", "label"), ("a", 1, {})),
    ({"labels.image": "label"}, None, ("a", None, {"image": 1})),
    ({"text": "target", "target": "text"}, None, ("b", 1, {})),
])  # fmt: skip
def test_a_column_is_its_own_field_unless_it_is_anothers(fields: Any, columns: Any, expected: tuple[Any, ...]) -> None:
    (sample,) = read_samples(open_data([{"text": "a", "label": 1, "target": "b"}], map=fields, columns=columns))
    assert (sample.text, sample.label, sample.labels) == expected


@pytest.mark.parametrize(("fields", "columns", "found"), [
    ({"text": "sentense"}, None, "the given list has no column 'sentense', which the map names; did you mean 'sentence'"),
    ({"text": "sentence", "label": "why"}, None, "has no column 'why'"),
    ({"txt": "sentence"}, None, "the map names the field 'txt', which there is not; did you mean 'text'"),
    (["text"], None, "the map is a list; expected a mapping"), ({}, "text", "columns is the string 'text'; expected a list"),
    ({}, ["sentence"], "unknown field 'sentence'"),
])  # fmt: skip
def test_a_slip_in_a_map_is_told(fields: Any, columns: Any, found: str) -> None:
    with pytest.raises(DataError, match=found):
        read_samples(open_data(ROWS, map=fields, columns=columns))


def test_what_is_no_field_is_told_with_all_columns() -> None:
    with pytest.raises(DataError, match=r"unknown field 'idx'; .* --map text=sentence, of \['idx', 'sentence', 'y', 'split'\]"):
        read_samples(ROWS)


def test_a_source_of_ones_own_has_no_columns() -> None:
    class Poems:
        name = origin = "poem"

        def __iter__(self) -> Any:
            return iter([Sample(1, text="a")])

    assert read_samples(open_data(Poems()))[0].text == "a"
    with pytest.raises(DataError, match="poem makes its own samples, which have no columns to map"):
        open_data(Poems(), map={"text": "verse"})


def test_the_command_lines_map() -> None:
    assert parse_map("text=sentence, label=y,split=") == {"text": "sentence", "label": "y", "split": ""}
    for text, found in (("sentence", "the part 'sentence'"), ("=y", "the part '=y'"), ("", "the part ''"), ("text=a,text=b", "text twice")):
        with pytest.raises(DataError, match=found):
            parse_map(text)

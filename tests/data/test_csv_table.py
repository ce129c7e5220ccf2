"""CSV: cells become fields, numbers labels, and what is damaged is told by its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimodal.data import open_data, read_samples
from trimodal.errors import DataError


def write(folder: Path, text: str | bytes, name: str = "rows.csv") -> Path:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / name


def test_cells_become_fields(folder: Path) -> None:
    text = 'image,text,label,labels.image,target,split\r\nseven.png,"a ""red"" bus,\nparked",3,7,01,test\r\n\r\n,0042,,,,test\r\n'
    file = write(folder, "\ufeff" + text)
    first, second = read_samples(file)
    assert (first.image, first.text, first.label, first.labels) == (folder / "seven.png", 'a "red" bus,\nparked', 3, {"image": 7})
    assert (first.target, first.split, first.where) == ("01", "test", f"{file}, line 3")
    assert (second.image, second.text, second.label, second.labels, second.target) == (None, "0042", None, {}, None)


@pytest.mark.parametrize(("name", "separator"), [("rows.csv", ";"), ("rows.tsv", "\t"), ("ROWS.CSV", "|")])
def test_separators_are_found(folder: Path, name: str, separator: str) -> None:
    file = write(folder, f"sentence{separator}y\na, b{separator}cat\nc{separator}dog\n", name)
    samples = read_samples(open_data(file, map={"text": "sentence", "label": "y"}))
    assert [(s.text, s.label_name, s.label) for s in samples] == [("a, b", "cat", 0), ("c", "dog", 1)]


def test_one_column_needs_no_separator(folder: Path) -> None:
    assert [s.text for s in read_samples(write(folder, "text\na red bus\nb\n"))] == ["a red bus", "b"]


@pytest.mark.parametrize(("text", "found"), [
    ("text,label\na,1\nb,c,2\n", "line 3: has 3 cells, and line 1 names 2 columns"),
    ("text,text\na,b\n", "line 1: names the column 'text' twice"), ("text,\na,b\n", "line 1: has a column without a name"),
    ("text,label\na,1.5\n", "line 2: label is '1.5'; expected a whole number from 0, or a class's name"),
    ("text,label\na,-1\n", "line 2: label is '-1'"), ('text\n"a" b\n', "line 2: is no CSV"), ("text\n\"a\n", "is no CSV"),
    ("image\nnine.png\n", "line 2: image names 'nine.png', which is not a file"),
    ("", "holds no records"), ("text\n\n", "holds no records"), (b"text\n\xff\n", "is not UTF-8 text"),
])  # fmt: skip
def test_what_is_damaged_is_told_by_its_line(folder: Path, text: str | bytes, found: str) -> None:
    file = write(folder, text)
    with pytest.raises(DataError, match=found) as caught:
        read_samples(file)
    assert str(file) in str(caught.value)

"""A CSV file, or TSV: the first line names the columns, each further one is a sample. Lines are read one by one.

    image,text,label
    images/7.png,"a red bus, parked",bus

Images and sounds are paths relative to the file; a signal is one too, or `[1, 2, 3]`, or several columns that a map joins. An empty
cell is none. A label is a number from 0, or a class's name.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from trimodal.core import Sample
from trimodal.data.columns import NO_MAP, ColumnMap, clean_cells
from trimodal.data.fields import build_sample, line_error, shorten_value
from trimodal.data.file_finder import FileFinder
from trimodal.data.signals import find_or_hold
from trimodal.data.source_kind import SourceKind, has_suffix
from trimodal.errors import DataError

_LONGEST_CELL = 2**24  # characters; the csv module stops at 131,072, which a document exceeds
_SNIFFED = ",;\t|"


class CsvSource:
    """The samples of a CSV file, one per record that is not blank, in file order. Columns are parted by what stands between the
    names in the first line: `,`, `;`, a tab or `|`.

    Raises:
        DataError: while it is read, the file or one of its records cannot be used.
    """

    def __init__(self, file: Path, columns: ColumnMap = NO_MAP) -> None:
        self.file = self.place = file
        self.name = str(file)
        self.origin = f"{file}, line"
        self._columns = columns

    def __iter__(self) -> Iterator[Sample]:
        """Read the file from its beginning."""
        files = FileFinder(self.file.parent)
        for number, fields in self._columns.watch(self.name, self._read_rows()):
            yield build_sample(self.origin, number, clean_cells(fields), find_or_hold(files.find))

    def explain_empty(self) -> str:
        """What an error says where there are no records."""
        return f"{self.name} holds no records; expected a line with the names of the columns, and one line per sample"

    def _read_rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Line number and cells of each record; the number is that of its last line."""
        try:
            with self.file.open(encoding="utf-8-sig", newline="") as opened:
                yield from self._parse_rows(opened)
        except OSError as error:
            raise DataError(f"cannot read {self.file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{self.file} is not UTF-8 text; save it as UTF-8") from error

    def _parse_rows(self, opened: TextIO) -> Iterator[tuple[int, Mapping[str, Any]]]:
        first = opened.readline()
        opened.seek(0)
        csv.field_size_limit(_LONGEST_CELL)
        reader = csv.reader(opened, delimiter=_find_delimiter(first, self.file), strict=True)
        try:
            names = self._check_names(next(reader, []))
            for cells in reader:
                if any(cells):
                    yield reader.line_num, self._name_cells(names, cells, reader.line_num)
        except csv.Error as error:
            where = f"{self.origin} {reader.line_num}"
            raise line_error(where, f"is no CSV ({error})", 'expected cells with quotes around them doubled: "a ""red"" bus"') from error

    def _check_names(self, names: list[str]) -> list[str]:
        names = [name.strip() for name in names]
        twice = [name for index, name in enumerate(names) if name in names[:index]]
        if twice or "" in names:
            found = f"names the column {shorten_value(twice[0])} twice" if twice else "has a column without a name"
            raise line_error(f"{self.origin} 1", found, "expected the names of the columns, each once, such as image,text,label")
        return names

    def _name_cells(self, names: list[str], cells: list[str], number: int) -> dict[str, str]:
        if len(cells) != len(names):
            found = f"has {len(cells)} cells, and line 1 names {len(names)} columns"
            raise line_error(f"{self.origin} {number}", found, "put quotes around a cell that holds a separator")
        return dict(zip(names, cells, strict=True))


def _find_delimiter(line: str, file: Path) -> str:
    """What stands most often between the names in the first line; a comma, or of TSV a tab, where nothing does."""
    usual = "\t" if file.suffix.lower() in (".tsv", ".tab") else ","
    counts = {mark: line.count(mark) for mark in usual + _SNIFFED}
    return max(counts, key=lambda mark: counts[mark])


KIND = SourceKind("a CSV file (.csv, .tsv)", lambda path: has_suffix(path, ".csv", ".tsv", ".tab"), CsvSource)

"""Parquet files: one, or a folder of them. Row groups are read when one of their rows is asked for.

An image or a sound is a path relative to the file's folder, or what `datasets` writes: {"bytes": content of a file, "path": …}.
The files of a folder are its splits where their names begin with `train`, `test` or `validation`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

from trimodal.data.columns import ColumnMap
from trimodal.data.rows import RowSource
from trimodal.data.source_kind import SourceKind, split_of
from trimodal.errors import DataError

_MAGIC = b"PAR1"
_SUFFIXES = ("*.parquet", "*.pq")


class _ParquetTable:
    """Rows of Parquet files by number. The row group that was asked for last stays in memory."""

    def __init__(self, files: Sequence[Path]) -> None:
        parquet = _import_parquet()
        self._splits = _name_splits(files)
        self._groups = [(file, group, rows) for file in files for group, rows in enumerate(_count_rows(parquet, file))]
        self._ends = list(accumulate(rows for _, _, rows in self._groups))
        self._last: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = bisect_right(self._ends, index)
        if not 0 <= index < len(self):
            raise IndexError(index)
        table, at = self._read_group(number), index - (self._ends[number - 1] if number else 0)
        row = {name: table.column(name)[at].as_py() for name in table.column_names}
        split = self._splits.get(self._groups[number][0])
        return row if split is None else {"split": split, **row}

    def _read_group(self, number: int) -> Any:
        """The row group, as pyarrow has it."""
        if self._last is None or self._last[0] != number:
            file, group, _ = self._groups[number]
            self._last = None  # it may go before the next one is read
            self._last = number, _read_group(_import_parquet(), file, group)
        return self._last[1]


def open_parquet(path: Path, columns: ColumnMap) -> RowSource:
    """The samples of a Parquet file, or of those in a folder, in the order of their names.

    Raises:
        DataError: a file is damaged, or pyarrow is not installed.
    """
    files = [path] if path.is_file() else _list_files(path)
    source = RowSource(_ParquetTable(files), columns, name=str(path), folder=path if path.is_dir() else path.parent)
    source.place = path
    return source


def _count_rows(parquet: ModuleType, file: Path) -> list[int]:
    """How many rows each row group has."""
    try:
        metadata = parquet.read_metadata(file)
    except (OSError, ValueError) as error:  # pyarrow's own errors are kinds of these
        raise DataError(f"{file} is no whole Parquet file ({_first_line_of(error)}); copy or download it again") from error
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _read_group(parquet: ModuleType, file: Path, group: int) -> Any:
    try:
        with parquet.ParquetFile(file) as opened:
            return opened.read_row_group(group)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: row group {group} cannot be read ({_first_line_of(error)}); copy or download it again") from error


def _first_line_of(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _list_files(folder: Path) -> list[Path]:
    """The Parquet files in `folder`, or where it has none in its `data`, as hub repositories have them."""
    for place in (folder, folder / "data"):
        found = sorted(file for pattern in _SUFFIXES for file in place.glob(pattern))
        if found:
            return found
    return []


def _name_splits(files: Sequence[Path]) -> dict[Path, str | None]:
    """The split of each file by what its name begins with; none where they are not of both."""
    found = {file: split_of(file.name.split("-")[0].split(".")[0].split("_")[0]) for file in files}
    return found if {*found.values()} == {"train", "test"} else {}


def _is_parquet(path: Path) -> bool:
    """Whether `path` is such a file, or a folder that holds one; a file is told by its first bytes."""
    if path.is_dir():
        return bool(_list_files(path))
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _import_parquet() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("reading Parquet needs the pyarrow package; install it with: pip install 'trimodal[data]'") from error
    return pyarrow.parquet  # type: ignore[no-any-return, unused-ignore]


KIND = SourceKind("a Parquet file, or a folder of them", _is_parquet, open_parquet)

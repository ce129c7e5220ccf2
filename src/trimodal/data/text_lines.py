"""A text file: every line that is not blank is the text of one sample. Lines are read one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trimodal.core import Sample
from trimodal.data.columns import NO_MAP, ColumnMap
from trimodal.data.fields import build_sample, line_error
from trimodal.data.file_finder import FileFinder
from trimodal.data.source_kind import SourceKind, has_suffix
from trimodal.errors import DataError


class TextSource:
    """The samples of a text file, one per line that is not blank, in file order. Its one column is called `text`.

    Raises:
        DataError: while it is read, the file cannot be read, or one of its lines is no text.
    """

    def __init__(self, file: Path, columns: ColumnMap = NO_MAP) -> None:
        self.file = self.place = file
        self.name = str(file)
        self.origin = f"{file}, line"
        self._columns = columns

    def __iter__(self) -> Iterator[Sample]:
        """Read the file from its beginning."""
        files = FileFinder(self.file.parent)
        for number, fields in self._columns.watch(self.name, self._read_lines()):
            yield build_sample(self.origin, number, fields, files.find)

    def explain_empty(self) -> str:
        """What an error says where there are no lines."""
        return f"{self.name} holds no text; expected one sample per line"

    def _read_lines(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        try:
            with self.file.open("rb") as opened:
                for number, line in enumerate(opened, start=1):
                    text = self._decode_line(number, line)
                    if text.strip():
                        yield number, {"text": text}
        except OSError as error:
            raise DataError(f"cannot read {self.file}: {error.strerror}") from error

    def _decode_line(self, number: int, line: bytes) -> str:
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise line_error(f"{self.origin} {number}", "is not UTF-8 text", "save the file as UTF-8") from error
        if "\0" in text:
            raise line_error(f"{self.origin} {number}", "holds a null character", "expected text, one sample per line")
        return text


KIND = SourceKind("a text file with one sample per line (.txt)", lambda path: has_suffix(path, ".txt", ".text"), TextSource)

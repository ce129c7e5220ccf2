"""A JSONL file, or a folder that holds `data.jsonl`: one object per line, with any of `image` and `audio` (paths relative
to the file), `text` and signals (`signals.py`), plus what a task needs:

    {"image": "images/7.png", "audio": "clips/three.flac", "text": "add them", "label": 10, "split": "test"}

Its lines are read one by one. The files that they name are looked for in a listing of their folder and not opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trimodal.core import Sample
from trimodal.data.columns import NO_MAP, ColumnMap
from trimodal.data.fields import build_sample, line_error, name_json_type
from trimodal.data.file_finder import FileFinder
from trimodal.data.signals import find_or_hold
from trimodal.data.source_kind import SourceKind
from trimodal.errors import DataError

DATA_NAME = "data.jsonl"
_BLANKS = b"\xef\xbb\xbf \t\r\n"
_LOOKED_AT = 4096


class JsonlSource:
    """The samples of a JSONL file, one per line that is not blank, in file order. Paths are joined to the file's folder.

    Raises:
        DataError: there is no such file; while its lines are read, one of them cannot be used.
    """

    def __init__(self, data: str | Path, columns: ColumnMap = NO_MAP) -> None:
        self.file = self.place = _find_data_file(Path(data))
        self._columns = columns
        self.name = str(self.file)
        self.origin = f"{self.file}, line"

    def __iter__(self) -> Iterator[Sample]:
        """Read the file from its beginning."""
        files = FileFinder(self.file.parent)
        for number, fields in self._columns.watch(self.name, self._read_objects()):
            yield build_sample(self.origin, number, fields, find_or_hold(files.find))

    def explain_empty(self) -> str:
        """What an error says where there are no lines."""
        return f"{self.name} holds no lines; expected one JSON object per line"

    def _read_objects(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Number and object of each line that is not blank."""
        for number, line in enumerate(self._read_lines(), start=1):
            text = self._decode_line(number, line)
            if text.strip():
                yield number, self._parse_object(number, text)

    def _read_lines(self) -> Iterator[bytes]:
        try:
            with self.file.open("rb") as opened:
                yield from opened
        except OSError as error:
            raise DataError(f"cannot read {self.file}: {error.strerror}") from error

    def _decode_line(self, number: int, line: bytes) -> str:
        try:
            return line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise line_error(f"{self.origin} {number}", "is not UTF-8 text", "save the file as UTF-8") from error

    def _parse_object(self, number: int, text: str) -> Mapping[str, Any]:
        where, expected = f"{self.origin} {number}", 'expected one JSON object such as {"text": "a red bus", "label": 3}'
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise line_error(where, f"not JSON ({reason})", expected) from error
        if not isinstance(value, dict):
            raise line_error(where, f"is a JSON {name_json_type(value)}", expected)
        return value


def _find_data_file(given: Path) -> Path:
    file = given / DATA_NAME if given.is_dir() else given
    if not file.is_file():
        found = f"the folder {given} holds no {DATA_NAME}" if given.is_dir() else f"there is no file {given}"
        raise DataError(f"{found}; expected a JSONL file or a folder that holds {DATA_NAME}")
    return file


def _is_jsonl(path: Path) -> bool:
    """Whether `path` is such a file or folder: by its name, or else by what its first bytes that are not blank are."""
    if path.is_dir():
        return (path / DATA_NAME).is_file()
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return True
    with path.open("rb") as file:
        return file.read(_LOOKED_AT).lstrip(_BLANKS).startswith(b"{")


KIND = SourceKind(f"a JSONL file, or a folder that holds {DATA_NAME}", _is_jsonl, JsonlSource)

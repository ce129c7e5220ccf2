"""A JSONL file, or a folder that holds `data.jsonl`: one object per line, with any of `image` and `audio` (paths relative
to the file) and `text`, plus what a task needs:

    {"image": "images/7.png", "audio": "clips/three.flac", "text": "add them", "label": 10, "split": "test"}

Its lines are read one by one. The files that they name are looked for in a listing of their folder and not opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trimodal.core import Sample
from trimodal.data.fields import build_sample, line_error, name_json_type, parse_string, shorten_value
from trimodal.errors import DataError

DATA_NAME = "data.jsonl"


class JsonlSource:
    """The samples of a JSONL file, one per line that is not blank, in file order. Paths are joined to the file's folder.

    Raises:
        DataError: there is no such file; while its lines are read, one of them cannot be used.
    """

    def __init__(self, data: str | Path) -> None:
        self.file = _find_data_file(Path(data))
        self.name = str(self.file)
        self.origin = f"{self.file}, line"

    def __iter__(self) -> Iterator[Sample]:
        """Read the file from its beginning."""
        files = _FileFinder(self.file.parent)
        for number, line in enumerate(self._read_lines(), start=1):
            text = self._decode_line(number, line)
            if text.strip():
                yield build_sample(self.origin, number, self._parse_object(number, text), files.find)

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


class _FileFinder:
    """Finds the files that lines name. A folder is listed once, however many of its files are named, and lines that name
    one file share its path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[str, frozenset[str]] = {}
        self._found: dict[str, Path] = {}

    def find(self, where: str, key: str, value: Any) -> Path:
        """The path of the file that `key` names; a DataError where there is none."""
        given = parse_string(where, key, value)
        known = self._found.get(given)
        return known if known is not None else self._found.setdefault(given, self._look_up(where, key, given))

    def _look_up(self, where: str, key: str, given: str) -> Path:
        path = self._folder / given
        if path.name not in self._list_files(str(path.parent)) and not _is_file(path):  # names may differ in case only
            raise line_error(
                where, f"{key} names {shorten_value(given)}, which is not a file", f"paths are relative to {self._folder}"
            )
        return path

    def _list_files(self, folder: str) -> frozenset[str]:
        if folder not in self._listed:
            self._listed[folder] = _list_files(folder)
        return self._listed[folder]


def _list_files(folder: str) -> frozenset[str]:
    """The names of the files in `folder`; none where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):  # a name that is too long, or holds a null character
        return frozenset()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False

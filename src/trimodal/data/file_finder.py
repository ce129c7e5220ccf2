"""Finds the files that lines and rows name, relative to the folder of their own file, in a listing of that folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trimodal.data.fields import line_error, parse_string, shorten_value


class FileFinder:
    """Finds the files that lines name. A folder is listed once, however many of its files are named, and lines that name
    one file share its path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[str, frozenset[str]] = {}
        self._found: dict[str, Path] = {}

    def find(self, where: str, key: str, value: Any) -> Path:
        """The path of the file that `key` names.

        Raises:
            DataError: there is none.
        """
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

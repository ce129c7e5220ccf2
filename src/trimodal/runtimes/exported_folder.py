"""A folder that `trimodal export` wrote: what is in it, and whether it is as it was written. Needs no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimodal.errors import InputError, IntegrityError
from trimodal.writing.sums import sha256

EXPORT_FILE, SAFE_WORDS, ANSWERS = "export.json", "safe_words", "answers"
FORMAT = 1
_NAME = re.compile(r"[\w.-]{1,200}")
_LONGEST = 2**31 - 1


@dataclass(frozen=True)
class ExportedFile:
    """One component: its files, the first of which is opened, and its inputs and outputs by name with their shapes (a word for a length
    that may vary)."""

    name: str
    files: tuple[str, ...]
    inputs: Mapping[str, Sequence[int | str]]
    outputs: Mapping[str, Sequence[int | str]]


@dataclass(frozen=True)
class ExportedFolder:
    """What `export.json` says: the format, the model's family, the runtime that it was tried in, the components by name, what they answer
    to seeded inputs (`recorded_answers.py`; nothing in folders that an older version wrote), and the sha256 of every file by its name."""

    folder: Path
    to: str
    family: str
    runtime: str
    components: Mapping[str, ExportedFile]
    answers: Mapping[str, Any] = field(default_factory=dict)
    sums: Mapping[str, str] = field(default_factory=dict)

    def path_of(self, name: str) -> Path:
        """The file of component `name` that a runtime opens."""
        return self.folder / self.components[name].files[0]


def is_exported(folder: Path) -> bool:
    """Whether `trimodal export` wrote `folder`."""
    return (folder / EXPORT_FILE).is_file()


def read_exported(folder: Path, check: bool = True) -> ExportedFolder:
    """What is in an exported folder; with `check`, every file is held to its sha256.

    Raises:
        InputError: `folder` was not written by `trimodal export`.
        IntegrityError: a file is missing or has changed, or the folder is of another version.
    """
    if not is_exported(folder):
        raise InputError(f"{folder} has no {EXPORT_FILE}; expected a folder that trimodal export wrote")
    said = _read_json(folder / EXPORT_FILE)
    try:
        if said["format"] != FORMAT:
            raise IntegrityError(f"{folder / EXPORT_FILE} is of format {said['format']}, this version reads {FORMAT}; export it again")
        if check:
            _check_sums(folder, said["files"])
            _check_listed(folder, [file for part in said["components"] for file in part["files"]], said["files"])
        if empty := [part["name"] for part in said["components"] if not part["files"]]:
            raise IntegrityError(f"{folder / EXPORT_FILE} lists no file for {empty[0]:.80}; export it again")
        for part in said["components"]:
            _check_part(folder, part)
        parts = [ExportedFile(p["name"], tuple(p["files"]), p["inputs"], p["outputs"]) for p in said["components"]]
        by_name = {part.name: part for part in parts}
        return ExportedFolder(folder, said["to"], said["family"], said["runtime"], by_name, said.get(ANSWERS) or {}, said["files"])
    except (KeyError, TypeError, AttributeError) as wrong:
        raise IntegrityError(f"{folder / EXPORT_FILE} lacks {wrong}; export it again") from wrong


def _check_part(folder: Path, part: Mapping[str, Any]) -> None:
    """Refuse a component whose name could not stand in a route, or with lengths that no tensor has."""
    if not isinstance(part["name"], str) or not _NAME.fullmatch(part["name"]):
        raise IntegrityError(f"{folder / EXPORT_FILE} names a component {part['name']!r:.80}; expected letters, digits, - _ and .")
    for name, shape in (*part["inputs"].items(), *part["outputs"].items()):
        for length in shape:
            whole = isinstance(length, int) and not isinstance(length, bool)
            if not (isinstance(length, str) or (whole and 0 <= length <= _LONGEST)):
                raise IntegrityError(f"{folder / EXPORT_FILE} says that {name:.80} has the length {length!r:.40}, which no tensor has")


def _check_sums(folder: Path, sums: Mapping[str, str]) -> None:
    for name, expected in sums.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise IntegrityError(f"{folder / EXPORT_FILE} lists {name:.80}, which lies outside of the folder; do not use it")
        if not (folder / name).is_file():
            raise IntegrityError(f"{folder} lacks {name:.80}, which its {EXPORT_FILE} lists; export it again")
        if sha256(folder / name) != expected:
            raise IntegrityError(f"{folder / name} has changed since it was exported (sha256 differs); export it again")


def _check_listed(folder: Path, opened: Sequence[str], sums: Mapping[str, str]) -> None:
    """Refuse files that would be opened though no sum is listed for them."""
    if unlisted := sorted(set(opened) - sums.keys()):
        raise IntegrityError(f"{folder / EXPORT_FILE} opens {unlisted[0]:.80}, for which it lists no sum; export it again")


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as wrong:
        raise IntegrityError(f"{file} cannot be read ({type(wrong).__name__}); export it again") from wrong

"""Whether a served folder is another one than before: by what the file system says of its files, none of which is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

Mark = tuple[str, int, int, int]
_DEPTH = 3


def read_marks(folders: Sequence[str]) -> tuple[Mark, ...]:
    """Every file of the folders: path, inode, time of its last change in ns, bytes. Links are followed, hidden files left out; a folder
    that is not there has none."""
    return tuple(mark for folder in folders for mark in sorted(_read_folder(Path(folder), _DEPTH)))


def _read_folder(folder: Path, depth: int) -> list[Mark]:
    found: list[Mark] = []
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        for entry in entries:
            if entry.is_dir():
                found += _read_folder(Path(entry.path), depth - 1) if depth > 1 else []
            else:
                known = entry.stat()
                found.append((entry.path, known.st_ino, known.st_mtime_ns, known.st_size))
    except OSError:  # it is being replaced: the next look sees what it has become
        return found
    return found


def resolve_folders(folders: Sequence[str]) -> tuple[str, ...]:
    """Where links lead now."""
    return tuple(str(Path(folder).resolve()) for folder in folders)

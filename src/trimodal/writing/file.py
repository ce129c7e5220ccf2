"""Text files that are whole or as they were."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from trimodal.errors import OutputError
from trimodal.writing.failing import as_output_error
from trimodal.writing.places import check_name, real_path
from trimodal.writing.signals import undisturbed
from trimodal.writing.syncing import sync
from trimodal.writing.workplace import Taken, claim, clear_leftovers, new_part

_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")


def write_whole(file: Path, text: str) -> None:
    """Write a text file that is complete, or as it was before. Links are followed; a pipe or a terminal is written to.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    check_name(file)
    real = real_path(file)
    try:
        mode = _mode(file)
        if mode is not None and stat.S_ISDIR(mode):
            raise OutputError(f"{file} is a folder; expected a file to write to")
        if mode is not None and (not stat.S_ISREG(mode) or str(file).startswith(_STREAMS)):
            file.write_text(text, encoding="utf-8")
            return
        clear_leftovers(real.parent)
        with undisturbed():
            _write(real, text.encode(), mode)
    except OSError as error:
        raise as_output_error(error, file) from error


def _mode(file: Path) -> int | None:
    try:
        return file.stat().st_mode
    except FileNotFoundError:
        return None


def _write(file: Path, data: bytes, mode: int | None) -> None:
    """Write beside the file, then rename."""
    part, held = _claimed(file)
    try:
        if mode is not None:
            os.fchmod(held, stat.S_IMODE(mode))
        with os.fdopen(os.dup(held), "wb") as opened:
            opened.write(data)
        sync(part)
        part.replace(file)
        sync(file.parent)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
        os.close(held)


def _claimed(file: Path) -> tuple[Path, int]:
    """A new file beside `file`, and its descriptor, which holds its lock."""
    file.parent.stat()  # a missing folder is not one that was cleared away
    while True:
        part = new_part(file.parent)
        with suppress(Taken):
            return part, claim(part)

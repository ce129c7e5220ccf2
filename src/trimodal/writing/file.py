"""Files that are whole or as they were."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from trimodal.errors import OutputError
from trimodal.writing.failing import to_output_error
from trimodal.writing.places import check_path_name, resolve_path
from trimodal.writing.signals import defer_signals
from trimodal.writing.syncing import sync_path
from trimodal.writing.workplace import FileTakenError, claim_file, clear_leftovers, new_partial_path

_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")


def write_text_atomically(file: Path, text: str) -> None:
    """Write a text file that is complete, or as it was before. Links are followed; a pipe or a terminal is written to.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    check_path_name(file)
    real = resolve_path(file)
    try:
        mode = _mode_of(file)
        if mode is not None and stat.S_ISDIR(mode):
            raise OutputError(f"{file} is a folder; expected a file to write to")
        if mode is not None and (not stat.S_ISREG(mode) or str(file).startswith(_STREAMS)):
            file.write_text(text, encoding="utf-8")
            return
        clear_leftovers(real.parent)
        with defer_signals():
            _write_and_rename(real, text.encode(), mode)
    except OSError as error:
        raise to_output_error(error, file) from error


def _mode_of(file: Path) -> int | None:
    try:
        return file.stat().st_mode
    except FileNotFoundError:
        return None


@contextmanager
def open_atomic_file(file: Path) -> Iterator[BinaryIO]:
    """A new file to write and read, which stands in the place of `file` when all went well. Links are followed.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    check_path_name(file)
    real = resolve_path(file)
    try:
        clear_leftovers(real.parent)
        with _replace_file(real, _mode_of(file)) as opened:
            yield opened
    except OSError as error:
        raise to_output_error(error, file) from error


def _write_and_rename(file: Path, data: bytes, mode: int | None) -> None:
    """Write beside the file, then rename."""
    with _replace_file(file, mode) as opened:
        opened.write(data)


@contextmanager
def _replace_file(file: Path, mode: int | None) -> Iterator[BinaryIO]:
    """A file beside `file`, with `mode` if that is known, which is renamed to it at the end."""
    part, held = _claim_temporary_file(file)
    try:
        if mode is not None:
            os.fchmod(held, stat.S_IMODE(mode))
        with part.open("r+b") as opened:
            yield opened
        sync_path(part)
        part.replace(file)
        sync_path(file.parent)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
        os.close(held)


def _claim_temporary_file(file: Path) -> tuple[Path, int]:
    """A new file beside `file`, and its descriptor, which holds its lock."""
    file.parent.stat()  # a missing folder is not one that was cleared away
    while True:
        part = new_partial_path(file.parent)
        with suppress(FileTakenError):
            return part, claim_file(part)

"""Folders and files that are complete or as they were: written beside their place under another name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from trimodal.errors import OutputError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_free(folder: Path, force: bool) -> None:
    """Refuse an output place that is taken.

    Raises:
        OutputError: `folder` is a file, or a folder that is not empty and `force` is not given, or one that holds the
            folder we are in.
    """
    if folder.is_file():
        raise OutputError(f"{folder} is a file; expected a folder to write to")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise OutputError(f"{folder} is not empty; give another folder, or --force to replace it")
    check_keeps(folder, Path.cwd(), "the current folder")


def check_keeps(folder: Path, path: Path, what: str) -> None:
    """Refuse to write `folder` where that would replace `path`, which is `what`.

    Raises:
        OutputError: `path` is `folder`, or inside of it.
    """
    if path.resolve().is_relative_to(folder.resolve()):
        raise OutputError(f"{folder} is or holds {what}, which would be replaced; give another folder")


@contextmanager
def whole_folder(folder: Path, force: bool = False, needs_bytes: int = 0) -> Iterator[Path]:
    """An empty folder to write into, which becomes `folder` if all goes well and vanishes if not.

    Raises:
        OutputError: the place is taken, cannot be written to, or the disk is full.
    """
    check_free(folder, force)
    folder = folder.resolve()
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(part.parent).free
        if needs_bytes > free:
            raise OutputError(
                f"{folder} needs {needs_bytes:,} bytes, but only {free:,} are free on its disk; nothing was written"
            )
        part.mkdir()
        yield part
        with _undisturbed():
            _swap(part, folder)
    except (OSError, SafetensorError) as error:
        raise _as_output_error(error, folder) from error
    finally:
        with _undisturbed():
            shutil.rmtree(part, ignore_errors=True)


def write_whole(file: Path, text: str) -> None:
    """Write a text file that is complete, or as it was before.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise _as_output_error(error, file, str(error.strerror)) from error
    finally:
        with _undisturbed():
            if part.exists():
                part.unlink()


def _swap(part: Path, folder: Path) -> None:
    """Put `part` in the place of `folder`; what stood there is removed only when the new one stands."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold Ctrl-C off for as long as a rename or a clean-up takes: a second one must not leave half of it behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _as_output_error(error: Exception, place: Path, reason: str = "") -> OutputError:
    full = getattr(error, "errno", None) in _NO_SPACE or "No space left" in str(error) or "os error 28" in str(error)
    if full:
        return OutputError(
            f"the disk is full: {place} could not be written; free some space and run again, nothing was left behind"
        )
    return OutputError(f"{place} could not be written ({reason or error}); nothing was left behind")


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

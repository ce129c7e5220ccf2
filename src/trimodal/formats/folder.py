"""Folders that are complete or absent: written beside their place under another name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from trimodal.errors import OutputError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_free(folder: Path, force: bool) -> None:
    """Refuse an output place that is taken.

    Raises:
        OutputError: `folder` is a file, or a folder that is not empty and `force` is not given.
    """
    if folder.is_file():
        raise OutputError(f"{folder} is a file; expected a folder to write to")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise OutputError(f"{folder} is not empty; give another folder, or --force to replace it")


@contextmanager
def whole_folder(folder: Path, force: bool = False, needs_bytes: int = 0) -> Iterator[Path]:
    """An empty folder to write into, which becomes `folder` if all goes well and vanishes if not.

    Raises:
        OutputError: the place is taken, cannot be written to, or the disk is full.
    """
    check_free(folder, force)
    folder = folder.absolute()
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(part.parent).free
        if needs_bytes > free:
            raise OutputError(f"{folder} needs {needs_bytes:,} bytes, but only {free:,} are free on its disk; nothing was written")
        part.mkdir()
        yield part
        _swap(part, folder)
    except (OSError, SafetensorError) as error:
        raise _as_output_error(error, folder) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _swap(part: Path, folder: Path) -> None:
    """Put `part` in the place of `folder`; what stood there is removed only when the new one stands."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _as_output_error(error: Exception, folder: Path) -> OutputError:
    full = getattr(error, "errno", None) in _NO_SPACE or "No space left" in str(error) or "os error 28" in str(error)
    if full:
        return OutputError(f"the disk is full: {folder} could not be written; free some space and run again, nothing was left behind")
    return OutputError(f"{folder} could not be written ({error}); nothing was left behind")


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

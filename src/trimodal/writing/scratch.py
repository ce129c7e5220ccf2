"""Folders for what is needed for a moment."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from trimodal.errors import OutputError
from trimodal.writing.failing import FAILURES, is_disk_full
from trimodal.writing.signals import defer_signals
from trimodal.writing.workplace import clear_leftovers, open_workplace


@contextmanager
def open_scratch_folder(what: str) -> Iterator[Path]:
    """A temporary folder for `what`; the next run removes one whose run was killed.

    Raises:
        OutputError: it cannot be written to.
    """
    work = None
    try:
        with defer_signals():
            work = open_workplace(_prepare_scratch_parent())
        yield work.new
    except FAILURES as error:
        if work is not None and not _is_error_in(error, work.path):
            raise
        where = work.path.parent if work is not None else "a temporary folder"
        raise OutputError(f"{what} cannot be written to {where} ({error}); set TMPDIR to a place with more room") from error
    finally:
        with defer_signals():
            if work is not None:
                work.remove()


def _prepare_scratch_parent() -> Path:
    """Where temporary folders are made, without what dead runs left there."""
    parent = Path(tempfile.gettempdir())
    clear_leftovers(parent)
    return parent


def _is_error_in(error: BaseException, folder: Path) -> bool:
    """Whether writing into `folder` failed, not something else."""
    file = getattr(error, "filename", None)
    return isinstance(error, SafetensorError) or is_disk_full(error) or (file is not None and Path(file).is_relative_to(folder))

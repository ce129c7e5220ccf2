"""Folders that are whole or as they were: written beside their place, then put there in one step."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trimodal.errors import OutputError
from trimodal.writing.failing import FAILURES, to_output_error
from trimodal.writing.places import check_disk_space, check_output_place, resolve_path
from trimodal.writing.renaming import ExchangeUnsupportedError, exchange_paths
from trimodal.writing.signals import defer_signals
from trimodal.writing.syncing import sync_path, sync_tree
from trimodal.writing.workplace import Workplace, open_workplace

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
_TRIES = 100


@contextmanager
def open_atomic_folder(folder: Path, force: bool = False, needs_bytes: int = 0) -> Iterator[Path]:
    """An empty folder to write into, which becomes `folder` if all goes well and vanishes if not.

    Whoever looks at `folder` sees what stood there or the whole new one, whatever happens: an error, a full disk, a signal, a
    kill, a power cut. What another run put there meanwhile is replaced with `force` only.

    Raises:
        OutputError: the place is taken, cannot be written to, or the disk is full.
    """
    check_output_place(folder, force)
    check_disk_space(folder, needs_bytes)
    place = resolve_path(folder)
    work, made = None, list[Path]()
    try:
        with defer_signals():
            made = _make_parents(place.parent)
            work = open_workplace(place.parent, place.name)
        yield work.new
        sync_tree(work.new)
        with defer_signals():
            _put_in_place(work, place, folder, force)
    except FAILURES as error:
        raise to_output_error(error, folder) from error
    finally:
        with defer_signals():
            if work is not None:
                work.remove()
            _remove_empty(made)


def _make_parents(parent: Path) -> list[Path]:
    """Make the folders above a place; those that were missing, topmost first."""
    missing = [path for path in (parent, *parent.parents) if not path.exists()][::-1]
    parent.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_path(path.parent)
    return missing


def _remove_empty(made: list[Path]) -> None:
    with suppress(OSError):
        for path in reversed(made):
            path.rmdir()


def _put_in_place(work: Workplace, place: Path, folder: Path, force: bool) -> None:
    """Put the new folder in its place, for good.

    Raises:
        OutputError: another run was faster.
        OSError: it cannot be done; the place is as it was.
    """
    _copy_permissions(work.new, place)
    undo = _move_into_place(work, place, folder, force)
    try:
        sync_path(place.parent)
        sync_path(work.path)
    except OSError:
        undo()
        raise


def _move_into_place(work: Workplace, place: Path, folder: Path, force: bool) -> Callable[[], None]:
    """Put the new folder in its place; what takes it out again."""
    for _ in range(_TRIES):
        try:
            work.new.rename(place)  # which takes the place of nothing, or of an empty folder
            return lambda: _move_back(place, work.new)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        if not force:
            raise OutputError(f"{folder} was filled while this run was under way, and is left as it is; give another folder")
        with suppress(FileNotFoundError):  # it is gone again
            return _swap_folders(work, place)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(place))


def _swap_folders(work: Workplace, place: Path) -> Callable[[], None]:
    """Let the new folder and what stands in its place change places; what changes them back."""
    try:
        exchange_paths(work.new, place)
        return lambda: exchange_paths(work.new, place)
    except ExchangeUnsupportedError:
        _swap_in_two_steps(work, place)
        return lambda: _move_back(place, work.new, work.old)


def _swap_in_two_steps(work: Workplace, place: Path) -> None:
    """The same in two steps. A kill between them leaves nothing in the place; the next run puts the old folder back."""
    sync_path(work.path / "lock")
    sync_path(work.path)
    place.rename(work.old)
    try:
        work.new.rename(place)
    except OSError:
        work.old.rename(place)
        raise


def _move_back(place: Path, new: Path, old: Path | None = None) -> None:
    place.rename(new)
    if old is not None:
        old.rename(place)


def _copy_permissions(new: Path, place: Path) -> None:
    """Whoever could look into the folder that stands in the place may look into the new one, and nobody else."""
    with suppress(FileNotFoundError):
        found = place.stat()
        new.chmod(stat.S_IMODE(found.st_mode))
        with suppress(PermissionError):
            os.chown(new, -1, found.st_gid)

"""Folders that are whole or as they were: written beside their place, then put there in one step."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trimodal.errors import OutputError
from trimodal.writing.failing import FAILURES, as_output_error
from trimodal.writing.places import check_free, check_room, real_path
from trimodal.writing.renaming import CannotExchange, exchange
from trimodal.writing.signals import undisturbed
from trimodal.writing.syncing import sync, sync_tree
from trimodal.writing.workplace import Workplace, open_workplace

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
_TRIES = 100


@contextmanager
def whole_folder(folder: Path, force: bool = False, needs_bytes: int = 0) -> Iterator[Path]:
    """An empty folder to write into, which becomes `folder` if all goes well and vanishes if not.

    Whoever looks at `folder` sees what stood there or the whole new one, whatever happens: an error, a full disk, a signal, a
    kill, a power cut. What another run put there meanwhile is replaced with `force` only.

    Raises:
        OutputError: the place is taken, cannot be written to, or the disk is full.
    """
    check_free(folder, force)
    check_room(folder, needs_bytes)
    place = real_path(folder)
    work, made = None, list[Path]()
    try:
        with undisturbed():
            made = _make_parents(place.parent)
            work = open_workplace(place.parent, place.name)
        yield work.new
        sync_tree(work.new)
        with undisturbed():
            _put_in_place(work, place, folder, force)
    except FAILURES as error:
        raise as_output_error(error, folder) from error
    finally:
        with undisturbed():
            if work is not None:
                work.remove()
            _remove_empty(made)


def _make_parents(parent: Path) -> list[Path]:
    """Make the folders above a place; those that were missing, topmost first."""
    missing = [path for path in (parent, *parent.parents) if not path.exists()][::-1]
    parent.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync(path.parent)
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
    _take_after(work.new, place)
    undo = _enter(work, place, folder, force)
    try:
        sync(place.parent)
        sync(work.path)
    except OSError:
        undo()
        raise


def _enter(work: Workplace, place: Path, folder: Path, force: bool) -> Callable[[], None]:
    """Put the new folder in its place; what takes it out again."""
    for _ in range(_TRIES):
        try:
            work.new.rename(place)  # which takes the place of nothing, or of an empty folder
            return lambda: _back(place, work.new)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        if not force:
            raise OutputError(f"{folder} was filled while this run was under way, and is left as it is; give another folder")
        with suppress(FileNotFoundError):  # it is gone again
            return _replace(work, place)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(place))


def _replace(work: Workplace, place: Path) -> Callable[[], None]:
    """Let the new folder and what stands in its place change places; what changes them back."""
    try:
        exchange(work.new, place)
        return lambda: exchange(work.new, place)
    except CannotExchange:
        _replace_in_two(work, place)
        return lambda: _back(place, work.new, work.old)


def _replace_in_two(work: Workplace, place: Path) -> None:
    """The same in two steps. A kill between them leaves nothing in the place; the next run puts the old folder back."""
    sync(work.path / "lock")
    sync(work.path)
    place.rename(work.old)
    try:
        work.new.rename(place)
    except OSError:
        work.old.rename(place)
        raise


def _back(place: Path, new: Path, old: Path | None = None) -> None:
    place.rename(new)
    if old is not None:
        old.rename(place)


def _take_after(new: Path, place: Path) -> None:
    """Whoever could look into the folder that stands in the place may look into the new one, and nobody else."""
    with suppress(FileNotFoundError):
        found = place.stat()
        new.chmod(stat.S_IMODE(found.st_mode))
        with suppress(PermissionError):
            os.chown(new, -1, found.st_gid)

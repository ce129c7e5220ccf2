"""Whether a place can be written to, asked before hours are spent on what is to stand there."""

from __future__ import annotations

import os
from pathlib import Path

from trimodal.errors import OutputError
from trimodal.machine import free_disk_bytes
from trimodal.writing.failing import to_output_error
from trimodal.writing.signals import defer_signals
from trimodal.writing.workplace import clear_leftovers, open_workplace

_MOUNTS = Path("/proc/self/mountinfo")
_LONGEST = 255  # bytes of one name, on all common file systems


def check_output_place(folder: Path, force: bool) -> None:
    """Refuse an output place that is taken, or that nothing can be written to. Clears away what dead runs left beside it.

    Raises:
        OutputError: `folder` is a file, or a folder that is not empty and `force` is not given, or one that cannot be
            replaced, or that holds the folder we are in; or nothing can be written beside it.
    """
    check_path_name(folder)
    place = resolve_path(folder)
    clear_leftovers(place.parent)
    try:
        if _path_exists(place):
            _check_replaceable(folder, place, force)
        _probe_writing(_find_existing_parent(place))
    except OSError as error:
        raise to_output_error(error, folder) from error


def check_writable(folder: Path) -> None:
    """Refuse a folder that no file can be written into. Clears away what dead runs left in it.

    Raises:
        OutputError: it says why.
    """
    clear_leftovers(resolve_path(folder))
    try:
        _probe_writing(resolve_path(folder))
    except OSError as error:
        raise to_output_error(error, folder) from error


def _probe_writing(folder: Path) -> None:
    """Make something and remove it: the surest way to know."""
    with defer_signals():
        open_workplace(folder).remove()


def check_not_replaced(folder: Path, path: Path, what: str) -> None:
    """Refuse to write `folder` where that would replace `path`, which is `what`.

    Raises:
        OutputError: `path` is `folder`, or inside of it.
    """
    if resolve_path(path).is_relative_to(resolve_path(folder)):
        raise OutputError(f"{folder} is or holds {what}, which would be replaced; give another folder")


def check_disk_space(folder: Path, needs_bytes: int) -> None:
    """Refuse a disk that has no room.

    Raises:
        OutputError: it has less than `needs_bytes` left.
    """
    free = free_disk_bytes(resolve_path(folder))
    if needs_bytes > free:
        raise OutputError(f"{folder} needs {needs_bytes:,} bytes, but only {free:,} are free on its disk; nothing was written")


def resolve_path(path: Path) -> Path:
    """The whole path, links followed.

    Raises:
        OutputError: it counts from the current folder, which is gone.
    """
    try:
        return Path(os.path.realpath(path))
    except FileNotFoundError as error:
        raise OutputError(f"{path} counts from the current folder, which is gone; give a path that begins with /") from error


def check_path_name(path: Path) -> None:
    """Refuse a path that no file system, or no page and no JSON file, can hold.

    Raises:
        OutputError: a name in it is too long, or no text.
    """
    try:
        named = os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise OutputError(f"{str(path)!r} is no name in UTF-8; give another") from error
    if "\0" in named or any(len(os.fsencode(part)) > _LONGEST for part in path.parts):
        raise OutputError(f"{named!r:.60} … holds a NUL or a name of more than {_LONGEST} bytes; give another")


def _find_existing_parent(place: Path) -> Path:
    """The lowest of the folders above a place that is there."""
    return next(parent for parent in place.parents if parent.exists())


def _path_exists(place: Path) -> bool:
    """Whether something stands there; unlike `Path.exists`, sure of it."""
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _check_replaceable(folder: Path, place: Path, force: bool) -> None:
    """Refuse what stands in the place, unless it is empty or to be replaced."""
    if not place.is_dir():
        raise OutputError(f"{folder} is a file; expected a folder to write to")
    if _is_mount(place):
        raise OutputError(f"{folder} is a file system of its own, which cannot be replaced; give a folder inside of it")
    if any(place.iterdir()) and not force:
        raise OutputError(f"{folder} is not empty; give another folder, or --force to replace it")
    check_not_replaced(folder, _current_folder(place), "the current folder")
    _check_removable(folder, place)


def _check_removable(folder: Path, place: Path) -> None:
    """Refuse a folder that could be moved away, but then not removed."""
    device = place.stat().st_dev
    for at, _, _ in os.walk(place):
        if not os.access(at, os.R_OK | os.W_OK | os.X_OK) or Path(at).stat().st_dev != device:
            raise OutputError(f"{folder} cannot be replaced: {at} cannot be removed; give another folder")


def _current_folder(place: Path) -> Path:
    """The folder we are in; where it is gone, one that no place holds."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(place.anchor)


def _is_mount(place: Path) -> bool:
    """Whether a file system is mounted here, also where it is a part of the same one."""
    if os.path.ismount(place):
        return True
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return False
    return os.fsencode(place) in {line.split()[4].decode("unicode_escape").encode("latin-1") for line in lines}

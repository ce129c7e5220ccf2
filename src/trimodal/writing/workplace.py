"""The folder beside a place where a run is at work, and how a later run knows that the run is dead.

A name says nothing of the run (two containers on one disk both have a process 7) and a clock may jump. So a name is random, and
a run holds a lock (`flock`) for as long as it lives: the system takes it away when the process ends, however it ends.

    making       1 make the folder  2 make `lock` in it  3 take the lock  4 see that `lock` is still the file under its name
    clearing     1 open `lock`  2 take the lock without waiting  3 see that it is still that file  4 remove all, `lock` last

Between 1 and 3 of making, another run may take the new folder for a dead one and clear it away. The maker sees that at 2 or 4
and makes another. A file that is being written is its own lock.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on this system: no run can be proved dead, and nothing is cleared away
    fcntl = None  # type: ignore[assignment]

_PART = re.compile(r"\.trimodal\.[0-9a-f]{16}\.part")
_LOCK, _NEW, _OLD = "lock", "new", "old"
_TRIES = 100
_OPEN = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_UNKNOWN = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Workplace:
    """A folder that this run made and holds the lock of; `held` is the open file descriptor."""

    path: Path
    held: int

    @property
    def new(self) -> Path:
        """What is being written."""
        return self.path / _NEW

    @property
    def old(self) -> Path:
        """What stood in the place."""
        return self.path / _OLD

    def remove(self) -> None:
        """Remove it and give the lock back. What cannot be removed now is cleared away by a later run."""
        with suppress(OSError):
            _remove_workplace(self.path)
        os.close(self.held)


def is_partial_name(name: str) -> bool:
    """Whether a file or folder of this name is being written by a run, or was left by one that was killed."""
    return _PART.fullmatch(name) is not None


def new_partial_path(parent: Path) -> Path:
    """A path in `parent` that no run has used before."""
    return parent / f".trimodal.{secrets.token_hex(8)}.part"


def open_workplace(parent: Path, place: str = "") -> Workplace:
    """Make a workplace in `parent` for what will be called `place` there.

    Raises:
        OSError: nothing can be made there; nothing is left.
    """
    for _ in range(_TRIES):
        path = new_partial_path(parent)
        path.mkdir(mode=0o700)
        try:
            held = claim_file(path / _LOCK)
            try:
                os.write(held, os.fsencode(place))
                (path / _NEW).mkdir()
                return Workplace(path, held)
            except OSError:
                os.close(held)
                raise
        except FileTakenError:
            continue
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(parent))


class FileTakenError(OSError):
    """A run that clears leftovers took a new file for one of them."""


def claim_file(file: Path) -> int:
    """Make `file` and hold its lock; the descriptor.

    Raises:
        Taken: make another.
        OSError: it cannot be made.
    """
    try:
        held = os.open(file, _OPEN | os.O_CREAT | os.O_EXCL, 0o666)
    except (FileNotFoundError, FileExistsError) as error:
        raise FileTakenError from error
    try:
        if _try_lock(held) is not False and _is_same_file(held, file):
            return held
        raise FileTakenError
    except OSError:
        os.close(held)
        raise


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Wait until no other run is in here for the same folder, where there are locks."""
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            if fcntl is not None:
                fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def clear_leftovers(parent: Path) -> None:
    """Remove what dead runs of this user left in `parent`, and put back what one of them had moved out of its place."""
    with suppress(OSError):
        for path in parent.iterdir():
            with suppress(OSError):
                if is_partial_name(path.name):
                    _clear_leftover(path)


def _clear_leftover(path: Path) -> None:
    """Remove one leftover if its run is dead."""
    found = path.lstat()
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        return
    folder = stat.S_ISDIR(found.st_mode)
    if folder and _remove_if_empty(path):
        return
    lock = path / _LOCK if folder else path
    try:
        held = os.open(lock, _OPEN)
    except FileNotFoundError:
        held = claim_file(lock)  # killed while it was being cleared away
    try:
        if _try_lock(held) and _is_same_file(held, lock):
            _restore_folder(path, os.fsdecode(os.read(held, 4096)) if folder else "")
            _remove_workplace(path)
    finally:
        os.close(held)


def _remove_if_empty(path: Path) -> bool:
    """Remove what was killed before it had a lock. One that is alive makes another."""
    with suppress(OSError):
        path.rmdir()
        return True
    return False


def _restore_folder(path: Path, place: str) -> None:
    """Put a folder back that was moved out of its place when the new one was not yet in it.

    Raises:
        OSError: its place is taken or not known; it is not ours to remove.
    """
    if (path / _OLD).exists() and (path / _NEW).exists():
        if not place or os.path.lexists(path.parent / place):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        (path / _OLD).rename(path.parent / place)


def _remove_workplace(path: Path) -> None:
    """Remove a workplace whose lock is held, the lock last, so that what a kill leaves of it can be cleared away."""
    if not path.is_dir():
        path.unlink()
        return
    for found in path.iterdir():
        if found.name != _LOCK:
            shutil.rmtree(found)
    (path / _LOCK).unlink()
    path.rmdir()


def _try_lock(held: int) -> bool | None:
    """Take the lock of an open file: False where another process holds it, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNKNOWN:
            return None
        raise
    return True


def _is_same_file(held: int, file: Path) -> bool:
    """Whether an open file is the one under its name."""
    try:
        return os.path.samestat(os.fstat(held), file.lstat())
    except FileNotFoundError:
        return False

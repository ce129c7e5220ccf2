"""Two names that change places in one step, where the system can do it."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

_FROM_HERE = -100  # AT_FDCWD of Linux: a relative path counts from the current folder
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV)


class ExchangeUnsupportedError(Exception):
    """The system, or this file system, does not know how to exchange two names."""


def exchange_paths(one: Path, other: Path) -> None:
    """Let two paths of one file system change places, in one step that is done or not done.

    Raises:
        CannotExchange: there is no such step here; nothing was done.
        OSError: it failed; nothing was done.
    """
    step = _find_exchange_call()
    if step is None:
        raise ExchangeUnsupportedError
    if step(os.fsencode(one), os.fsencode(other)) == 0:
        return
    number = ctypes.get_errno()
    if number in _CANNOT:
        raise ExchangeUnsupportedError
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@cache
def _find_exchange_call() -> Callable[[bytes, bytes], int] | None:
    """The C library's function, if it has one."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
    except (OSError, TypeError):
        return None
    if hasattr(library, "renameat2"):
        return lambda one, other: int(library.renameat2(_FROM_HERE, one, _FROM_HERE, other, _EXCHANGE))
    if hasattr(library, "renamex_np"):
        return lambda one, other: int(library.renamex_np(one, other, _EXCHANGE))
    return None

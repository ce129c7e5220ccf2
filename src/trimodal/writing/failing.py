"""What went wrong on a disk, said to a user."""

from __future__ import annotations

import errno
from pathlib import Path

from safetensors import SafetensorError

from trimodal.errors import OutputError

FAILURES = (OSError, SafetensorError)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    words = str(error)
    return getattr(error, "errno", None) in _NO_SPACE or "No space left" in words or "os error 28" in words


def to_output_error(error: BaseException, place: Path) -> OutputError:
    """The error for a `place` that could not be written to, which is as it was."""
    if is_disk_full(error):
        return OutputError(
            f"the disk is full: {place} could not be written; free some space and run again, nothing was left behind"
        )
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{place} could not be written ({reason}); nothing was left behind")

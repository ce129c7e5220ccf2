"""What is on the disk, not only in the memory of the machine: a new name must not outlive a power cut that its bytes do not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)


def sync_path(path: Path) -> None:
    """Bring one file's bytes, or one folder's names, to the disk, where its file system knows how.

    Raises:
        OSError: the disk could not take them.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(opened)


def sync_tree(folder: Path) -> None:
    """Bring all of a folder to the disk, files first.

    Raises:
        OSError: the disk could not take it.
    """
    for at, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_path(Path(at, name))
        sync_path(Path(at))

"""Who ends with whom, as Linux lets a process ask for: no orphan survives its supervisor, whatever happens to it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from trimodal.errors import InputError

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_ADOPTION_SECONDS = 5.0


def check_system() -> None:
    """Refuse a system that cannot promise this.

    Raises:
        InputError: it is not Linux.
    """
    if not sys.platform.startswith("linux"):
        raise InputError(
            f"trimodal serve needs Linux, this is {sys.platform}; run it in a container (trimodal package … --for docker)"
        )


def adopt_orphans() -> None:
    """From now on this process becomes the parent of descendants whose own parent has ended (`PR_SET_CHILD_SUBREAPER`)."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Let the kernel kill this process when `parent`, which must be its parent, ends, however it ends (`PR_SET_PDEATHSIG`)."""
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before this was asked for
        os._exit(1)


def wait_for_adoption(supervisor: int) -> None:
    """Wait until the process that forked this one has ended and `supervisor` is the parent; end where that does not come."""
    until = time.monotonic() + _ADOPTION_SECONDS
    while os.getppid() != supervisor:
        if time.monotonic() > until:
            os._exit(1)
        time.sleep(0.0005)


def reap_children() -> list[tuple[int, int]]:
    """The children that have ended since the last call: number, and exit code or minus the signal."""
    ended = list[tuple[int, int]]()
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def kill_group(pid: int) -> None:
    """Kill a process that leads its own group, and whatever it has started."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def is_there(pid: int) -> bool:
    """Whether there is such a process, if only as an entry that its parent has not read yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def describe_end(code: int) -> str:
    """How a process ended, as its exit code or signal says."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _control(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) is refused here")


def has_terminal() -> bool:
    """Whether the terminal that standard input was opened on is still there."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    return True

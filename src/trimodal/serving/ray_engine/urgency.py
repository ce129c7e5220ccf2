"""Who gets the processor first: what serves, before what is only being started."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LEAST = 19
_SYS_NICE = 23


def choose_niceness() -> int:
    """That Ray begins its workers with. Its own choice, 15, is good for their start, of which a replica takes seconds of a processor
    from those that serve; but only who has the right (`CAP_SYS_NICE`) can be raised from it when it serves."""
    rights = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return 15 if int(rights.split()[1], 16) >> _SYS_NICE & 1 else 0


def raise_process(pid: int) -> None:
    """Let all threads of a process be as urgent as usual, where that is allowed."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), 0)


def raise_descendants(pid: int) -> None:
    """The same for all processes that come from this one."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                raise_process(int(child))
                raise_descendants(int(child))

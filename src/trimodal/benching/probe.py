"""Load time, memory and integer nodes of one file, in a process of its own.

`python -m trimodal.benching.probe` reads a job as JSON on standard input and writes what it found as JSON on standard output. Nothing here
imports torch, whose memory would be counted as that of the runtime; `torch_probe.py` does the same for PyTorch.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimodal.runtimes import RUNTIMES, Session
from trimodal.runtimes.example_inputs import make_inputs

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Facts:
    """What a fresh process found.

    `load_seconds` goes from before the runtime's import to its first answer; `peak_bytes` is the process's largest memory, runtime and
    all; `integer_nodes` is how many nodes compute with 8-bit or 4-bit integers, None where nobody tells.
    """

    load_seconds: float
    peak_bytes: int
    integer_nodes: int | None


def run_job(job: dict[str, Any], open_session: Callable[[], Session], start: float) -> Facts:
    """Open, run once, and look: `start` is the time when the process began with it, in seconds of the performance counter."""
    session = open_session()
    session.run(make_inputs(job["shapes"], job["batch"], job["tokens"], job["words"]))
    seconds, peak = time.perf_counter() - start, read_peak_bytes()
    return Facts(seconds, peak, len(session.list_integer_nodes()) if job["runtime"] in RUNTIMES else None)


def read_peak_bytes() -> int:
    """The largest memory that this process had. Linux carries the parent's over into what getrusage says, so its status comes first."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """One job from standard input."""
    start, job = time.perf_counter(), json.load(sys.stdin)
    print(json.dumps(asdict(run_job(job, lambda: RUNTIMES[job["runtime"]](Path(job["file"]), job["threads"]), start))))


if __name__ == "__main__":
    main()

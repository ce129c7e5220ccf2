"""What the entries share: the verdict `Wrong`, and the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


class Wrong(Exception):
    """The situation came out wrong; the message says what came."""


def expect(whether: bool, what_came: str) -> None:
    """Raise `Wrong` with `what_came` unless it is right."""
    if not whether:
        raise Wrong(what_came)


@dataclass(frozen=True)
class Done:
    """What a process left behind."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The last line on standard error, short enough for a table."""
        return (self.err.strip().splitlines() or ["nothing"])[-1][:160]


def trimodal(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> Done:
    """The command line in a process of its own."""
    return python("-m", "trimodal", *arguments, cwd=cwd, **environment)


def python(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> Done:
    """A Python process that can import what this one can, with one thread."""
    whole = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path), **environment}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=whole, capture_output=True, text=True, timeout=600
    )
    return Done(done.returncode, done.stdout, done.stderr)


def refused(done: Done, *words: str) -> str:
    """What was said, if it is a clear refusal with exit code 2 that holds `words`."""
    clear = done.code == 2 and "Traceback" not in done.err and all(word in done.err for word in words)
    expect(clear, f"exit code {done.code}: {done.said}")
    return done.said

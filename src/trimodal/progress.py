"""How far a run is, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Progress = Callable[[str, int, int], None]


def ignore_progress(what: str, done: int, total: int) -> None:
    """Progress for nobody."""


def tell_nobody(message: str) -> None:
    """Notices for nobody."""


class PhaseProgress:
    """Progress of a whole run, in thousandths: each phase has the part of it that it is expected to take, given in `seconds`."""

    def __init__(self, progress: Progress, seconds: Mapping[str, float]) -> None:
        self._progress = progress
        total = sum(seconds.values()) or 1.0
        self._shares = {name: value / total for name, value in seconds.items()}
        self._begun, self._share = 0.0, 0.0

    def enter_phase(self, phase: str, what: str) -> None:
        """The phase before is over; `phase` begins with `what`."""
        self._begun, self._share = self._begun + self._share, self._shares.get(phase, 0.0)
        self(what, 0, 1)

    def __call__(self, what: str, done: int, total: int) -> None:
        """So much of this phase is done."""
        part = min(1.0, done / total) if total else 0.0
        self._progress(what, round(1000 * (self._begun + self._share * part)), 1000)


@dataclass
class StageClock:
    """Wall seconds per stage. `last` is when the stage before ended, in seconds of a clock that only counts."""

    last: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def mark_stage(self, stage: str) -> None:
        """The stage that has just ended is called `stage`."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self.last, 3)
        self.last = now

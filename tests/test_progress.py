"""Progress of a whole run over its phases."""

from __future__ import annotations

import pytest

from trimodal import progress
from trimodal.progress import PhaseProgress, StageClock


def test_phases_share_the_thousandths_by_the_seconds_that_they_should_take() -> None:
    told: list[tuple[str, int, int]] = []
    phases = PhaseProgress(lambda *at: told.append(at), {"work": 3.0, "check": 1.0})
    phases.enter_phase("work", "at work")
    phases("half", 1, 2)
    phases("too much", 5, 2)
    phases.enter_phase("check", "checking")
    phases("all", 4, 4)
    assert told == [("at work", 0, 1000), ("half", 375, 1000), ("too much", 750, 1000), ("checking", 750, 1000), ("all", 1000, 1000)]


def test_nothing_to_do_and_phases_that_nobody_knows_take_no_part() -> None:
    told: list[int] = []
    phases = PhaseProgress(lambda what, done, total: told.append(done), {})
    phases.enter_phase("unknown", "what")
    phases("it", 0, 0)
    assert told == [0, 0]


def test_seconds_per_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 12.5, 12.75])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    clock = StageClock(last=progress.time.perf_counter())
    clock.mark_stage("plan")
    clock.mark_stage("save")
    assert clock.seconds == {"plan": 2.5, "save": 0.25} and clock.last == 12.75

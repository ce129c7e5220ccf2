"""Goes through rows: sends every variant, then good requests, and looks whether the same processes are still there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.bad_inputs.cases import Case, Found, Outcome, Place, Row, try_case
from benchmarks.serving.bad_inputs.good import find_wrong
from benchmarks.serving.running import Running

_AT_ONCE = 12
_LAST = (11,)
"""Rows whose connections push out those that wait."""


@dataclass(frozen=True)
class Known:
    """What must stay as it was: the right answers, and the processes that answer."""

    right: dict[str, Any]
    workers: Sequence[int]


def try_rows(rows: Sequence[Row], place: Place, running: Running, known: Known) -> list[Outcome]:
    """What came of each row, in order; slow variants run beside the others."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        begun = {(row.number, case.label): pool.submit(try_case, case, place) for row in rows for case in row.cases if case.slow}
        quick_first = sorted(rows, key=lambda row: (row.number in _LAST, any(case.slow for case in row.cases)))
        found = [try_row(row, place, running, known, begun) for row in quick_first]
    return sorted(found, key=lambda one: one.row.number)


def try_row(
    row: Row, place: Place, running: Running | None, known: Known, begun: dict[tuple[int, str], Future[Found]] | None = None
) -> Outcome:
    """All variants of one row."""
    outcome = Outcome(row)
    for case in row.cases:
        if place.quick and case.extra:
            continue
        waiting = (begun or {}).get((row.number, case.label))
        note_found(outcome, case, waiting.result() if waiting else try_case(case, place))
        if running is not None:
            _note_state(outcome, case.label, running, known, first_only=True)
    if running is not None:
        _note_state(outcome, "all of it", running, known, first_only=False)
    print_row(outcome)
    return outcome


def note_found(outcome: Outcome, case: Case, found: Found) -> None:
    """Add what came of a variant."""
    outcome.said[found.said] = outcome.said.get(found.said, 0) + 1
    outcome.slowest = max(outcome.slowest, found.seconds)
    if case.declared:
        outcome.declared.append((found.seconds, f"{outcome.row.number} {case.label}"))
    if found.fault:
        outcome.faults.append(f"{case.label}: {found.fault}")


def _note_state(outcome: Outcome, label: str, running: Running, known: Known, *, first_only: bool) -> None:
    wrong = find_wrong(running.port, known.right, first_only)
    if wrong:
        outcome.faults.append(f"{label}: {wrong}")
    if (workers := running.list_workers()) != known.workers:
        outcome.faults.append(f"{label}: workers were {list(known.workers)}, are {workers}")


def print_row(outcome: Outcome) -> None:
    """Say how far it is, and what is wrong, while it runs."""
    said = ", ".join(f"{status} × {count}" for status, count in outcome.said.items())
    print(f"{outcome.row.number:3d} {outcome.row.what}: {said}", file=sys.stderr)
    for fault in outcome.faults:
        print(f"    WRONG {fault}", file=sys.stderr)
    sys.stderr.flush()

"""Thousands of bad requests, and what they leave behind."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.bad_inputs.cases import Case, Found, Place, Row, try_case
from benchmarks.serving.bad_inputs.good import find_wrong
from benchmarks.serving.running import Running

_CLIENTS, _REST_SECONDS, _GOOD_EVERY = 4, 3.0, 100
_TRIES = 5
"""Of a request that meets a full queue: some of these texts are work for a hundred usual ones."""
_LARGE, _LARGE_SHARE = 300_000, 0.05
"""Bytes of a request, from which on it is sent that much less often."""


@dataclass(frozen=True)
class Soak:
    """Bytes before and after, what was answered how often, what was wrong, and how many good answers were looked at."""

    before: int
    after: int
    said: Counter[str]
    faults: Sequence[str]
    asked_well: int
    seconds: float

    @property
    def growth(self) -> float:
        """As a share of what it was before."""
        return self.after / self.before - 1


def soak(rows: Sequence[Row], place: Place, running: Running, right: dict[str, Any], warm_up: int, count: int) -> Soak:
    """Send `warm_up` bad requests of all rows, measure, send `count` more, measure again."""
    cases = [case for row in rows for case in row.cases if case.soaks and not case.extra]
    chance = random.Random(0)
    _send(_draw(cases, chance, warm_up), place, right)
    before, begun = _measure(running), time.monotonic()
    said, faults, asked_well = _send(_draw(cases, chance, count), place, right)
    seconds = time.monotonic() - begun
    return Soak(before, _measure(running), said, faults, asked_well, seconds)


def _measure(running: Running) -> int:
    time.sleep(_REST_SECONDS)
    return running.measure_memory()


def _draw(cases: Sequence[Case], chance: random.Random, count: int) -> list[Case]:
    weights = [_LARGE_SHARE if len(case.request) > _LARGE or "bytes" in case.label else 1.0 for case in cases]
    return chance.choices(cases, weights, k=count)


def _try_patiently(case: Case, place: Place) -> Found:
    """Send it again where the queue is full, as the answer says."""
    found = try_case(case, place)
    for _ in range(_TRIES):
        if found.said != "429":
            break
        time.sleep(1.0)
        found = try_case(case, place)
    return found


def _send(cases: Sequence[Case], place: Place, right: dict[str, Any]) -> tuple[Counter[str], list[str], int]:
    said, faults, asked_well = Counter[str](), list[str](), 0
    with ThreadPoolExecutor(_CLIENTS) as pool:
        for begin in range(0, len(cases), _GOOD_EVERY):
            for case, found in zip(cases[begin:], pool.map(lambda case: _try_patiently(case, place), cases[begin : begin + _GOOD_EVERY])):
                said[found.said] += 1
                if found.fault:
                    faults.append(f"{case.label}: {found.fault}")
            asked_well += 1
            if wrong := find_wrong(place.port, right):
                faults.append(wrong)
    return said, faults, asked_well

"""Times of several calls, taken in turn.

    for each round: for each call: one call that is not timed, then a block of calls of at least 0.1 s
                                   (a call that takes half a second warms itself up)

A machine drifts, and other work comes and goes: what is timed in turn meets the same of it. A ratio is that of medians over the rounds.
The reference is timed twice in every round; what its two medians differ by is noise, and no difference below twice of it is shown.
With one thread the clock is the processor's time, which leaves out waiting for other processes; with more it is wall time, since a thread
that waits for the slowest one costs time too. Samples beside which other processes were busy with more cores than were free are
left out where at least three others are there.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trimodal.benching.conditions import Conditions, ForeignLoad

BLOCK_SECONDS = 0.1
ROUNDS = 7
TWIN = "the first row again"
_CLEAN_SAMPLES, _SPARE_CORES = 3, 0.25
_WARM_SECONDS = 0.5
_MOST_CALLS = 1000

Call = Callable[[], object]


@dataclass(frozen=True)
class Sample:
    """One block: seconds per call, and the cores that other processes kept busy meanwhile."""

    seconds: float
    foreign: float | None


@dataclass(frozen=True)
class Timing:
    """Seconds per call: median and quartiles over the rounds. `noisy` where too few samples were free of other work."""

    median: float
    low: float
    high: float
    samples: tuple[float, ...]
    noisy: bool


@dataclass(frozen=True)
class Timings:
    """Of one set of calls: by name, and `noise`, the relative difference that is seen where there is none."""

    by_name: Mapping[str, Timing]
    noise: float

    def ratio_of(self, name: str, reference: str) -> float:
        """How many times as fast as `reference`."""
        return self.by_name[reference].median / self.by_name[name].median

    def is_told_apart(self, ratio: float) -> bool:
        """Whether `ratio` differs from 1 by at least twice the noise."""
        return abs(math.log(ratio)) >= math.log1p(2 * self.noise)


def time_in_turn(calls: Mapping[str, Call], conditions: Conditions, rounds: int = ROUNDS) -> Timings:
    """Time `calls`, of which the first is the reference."""
    first = next(iter(calls))
    all_calls = {**calls, TWIN: calls[first]}
    clock = time.process_time if conditions.threads == 1 else time.perf_counter
    counts = {name: _count_calls(call, clock) for name, call in calls.items()}
    counts[TWIN] = counts[first]
    samples: dict[str, list[Sample]] = {name: [] for name in all_calls}
    for number in range(rounds):
        order = list(all_calls) if number % 2 == 0 else list(reversed(all_calls))
        for name in order:
            samples[name].append(_time_block(all_calls[name], counts[name], clock))
    limit = conditions.cores - conditions.threads + _SPARE_CORES
    found = {name: summarise_samples(samples[name], limit) for name in all_calls}
    noise = measure_noise(samples[first], samples[TWIN], found[first], found.pop(TWIN))
    return Timings(found, noise)


def summarise_samples(samples: list[Sample], limit: float) -> Timing:
    """Median and quartiles of the samples beside which at most `limit` cores were busy with other work; of all where those are few."""
    clean = [sample.seconds for sample in samples if sample.foreign is None or sample.foreign <= limit]
    noisy = len(clean) < min(_CLEAN_SAMPLES, len(samples))
    used = [sample.seconds for sample in samples] if noisy else clean
    low, _, high = statistics.quantiles(used, n=4, method="inclusive") if len(used) > 1 else (used[0],) * 3
    return Timing(statistics.median(used), low, high, tuple(used), noisy)


def measure_noise(ones: list[Sample], others: list[Sample], one: Timing, other: Timing) -> float:
    """What two measurements of the same differ by, relatively: the difference of their medians, or the error that the spread of
    their ratios, round by round, leaves in a median, whichever is larger."""
    ratios = [a.seconds / b.seconds for a, b in zip(ones, others, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else (1.0, 1.0, 1.0)
    return max(abs(one.median / other.median - 1), (high - low) / math.sqrt(len(ratios)))


def _count_calls(call: Call, clock: Callable[[], float]) -> int:
    """How many calls take as long as a block should, after the first, which prepares what later ones use; 0 for one that is so long that
    it needs no call before it."""
    call()
    start = clock()
    call()
    seconds = clock() - start
    return 0 if seconds > _WARM_SECONDS else max(1, min(_MOST_CALLS, math.ceil(BLOCK_SECONDS / max(seconds, 1e-6))))


def _time_block(call: Call, count: int, clock: Callable[[], float]) -> Sample:
    if count:
        call()
    count = max(1, count)
    load, start = ForeignLoad(), clock()
    for _ in range(count):
        call()
    return Sample((clock() - start) / count, load.stop())

"""Who gets in: work is counted by what it will cost, the queue is bounded, and who is turned away is told when to come again.

A burst may fill the queue. A queue that stands, because more comes than can be done, is kept as short as `wait_seconds` of work: waiting
longer would answer nobody sooner (Nichols, Jacobson 2012, "Controlling queue delay", whose CoDel tells the two apart in the same way).
Once it stands, it is kept short until nobody has been turned away for a second: a queue that empties with each batch, under lasting
overload, gets no new burst every time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trimodal.serving.refusals import RefusedError, refuse_large
from trimodal.serving.requests import Item, RemoteFile

_IMAGE_BYTES, _AUDIO_BYTES, _CHARACTERS, _NEW_TOKENS = 500_000, 500_000, 1_000, 16
_REMOTE_BYTES = 500_000
_MEMORY = 0.9  # how much of the known rate stays, per measurement
_LEAST_WAIT, _MOST_WAIT = 1.0, 60.0
_CALM_SECONDS = 1.0


def predict_cost(item: Item, new_tokens: int = 0) -> float:
    """How much work a sample is, 1 for a usual one: larger files take longer to decode, longer texts and answers longer to compute."""
    cost = _count_bytes(item.image) / _IMAGE_BYTES + _count_bytes(item.audio) / _AUDIO_BYTES + len(item.text or "") / _CHARACTERS
    return 1.0 + cost + new_tokens / _NEW_TOKENS


def _count_bytes(file: bytes | RemoteFile | None) -> int:
    """Of a file; of one that has yet to be fetched those of a usual one."""
    return len(file) if isinstance(file, bytes) else 0 if file is None else _REMOTE_BYTES


class Admission:
    """The bounded queue of one service. It counts cost that waits or is worked on; `rate` is the cost that is done in a second.

    `most` bounds it always, `wait_seconds` of work once it has been longer than that for `burst_seconds`; `least` always fits.
    """

    def __init__(
        self, most: float, wait_seconds: float = math.inf, burst_seconds: float = 0.5, least: float = 8.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._most, self._wait, self._burst, self._least, self._clock = most, wait_seconds, burst_seconds, least, clock
        self.waiting = 0.0
        self.rate = 0.0
        self._long_since: float | None = None
        self._short_until = -math.inf
        self._done, self._busy_since, self._measured = 0.0, 0.0, 0.0

    @contextmanager
    def admit(self, cost: float) -> Iterator[None]:
        """Let work of so much `cost` in for as long as this is open.

        Raises:
            RefusedError: 429, too much waits already; 413, so much never fits.
        """
        if cost > self._most:
            raise refuse_large(f"this is work for {cost:.0f} usual samples; at most {self._most:.0f} are taken at once, send fewer")
        if self.waiting + cost > self._find_bound() and self.waiting:
            wait, now = self.estimate_wait(), self._clock()
            self._short_until = now + _CALM_SECONDS if now < self._short_until else self._short_until
            raise RefusedError(429, f"{self.waiting:.0f} samples are waiting and no more fit; try again in {wait:.0f} s", retry_after=wait)
        if not self.waiting:
            self._busy_since, self._done = self._clock(), 0.0
        self.waiting += cost
        try:
            yield
        finally:
            self.waiting = max(self.waiting - cost, 0.0)
            self._note_done(cost)

    def _find_bound(self) -> float:
        """How much may wait now."""
        short = max(self.rate * self._wait, self._least) if self.rate > 0 and math.isfinite(self._wait) else self._most
        now = self._clock()
        if self.waiting < short:
            self._long_since = None
        elif self._long_since is None:
            self._long_since = now
        if self._long_since is not None and now - self._long_since >= self._burst:
            self._short_until = now + _CALM_SECONDS
        return min(short, self._most) if now < self._short_until else self._most

    def estimate_wait(self) -> float:
        """In how many seconds what waits now will be done, a whole number from 1 to 60."""
        seconds = self.waiting / self.rate if self.rate > 0 else _LEAST_WAIT
        return float(math.ceil(min(max(seconds, _LEAST_WAIT), _MOST_WAIT)))

    def _note_done(self, cost: float) -> None:
        self._done += cost
        seconds = self._clock() - self._busy_since
        if seconds <= 0:
            return
        found = self._done / seconds
        self.rate = found if not self.rate else _MEMORY * self.rate + (1 - _MEMORY) * found

"""Samples of one shape that wait at the same time are computed together: nobody waits for a batch to fill, and nobody's answer depends on
who else was in it.

When the model is free it takes the sample that has waited longest, and with it all others of its shape, up to a limit. Under little load
batches have one sample, under much they grow by themselves. Who has gone away, or whose time is over, is left out. One that fails in a
batch is computed alone, so that it fails alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import InputError
from trimodal.serving.refusals import refuse_bad, refuse_late

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[str, Arrays], dict[str, NDArray[Any]]]


@dataclass(eq=False)
class _Waiting:
    component: str
    arrays: Arrays
    until: float
    future: asyncio.Future[dict[str, NDArray[Any]]]
    since: float = field(default_factory=time.monotonic)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """What must be alike to be computed together."""
        return (self.component, *sorted((name, value.shape[1:], value.dtype.str) for name, value in self.arrays.items()))

    @cached_property
    def count(self) -> int:
        """How many samples it holds."""
        return len(next(iter(self.arrays.values())))


@dataclass
class Counts:
    """Since the start: batches, samples in them, and seconds that samples waited and that batches were computed."""

    batches: int = 0
    samples: int = 0
    waited: float = 0.0
    computed: float = 0.0


class Batcher:
    """The queue before one model. `run` computes a component in a thread of `executor`; components in `together` take several samples."""

    def __init__(self, run: Run, executor: Executor, most: int, together: frozenset[str]) -> None:
        self._run, self._executor, self._most, self._together = run, executor, most, together
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.counts = Counts()

    def start(self) -> None:
        """Begin to compute."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """End; what waits is refused as too late."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for one in self._waiting:
            if not one.future.done():
                one.future.set_exception(refuse_late())
        self._waiting.clear()

    @property
    def queued(self) -> int:
        """How many samples wait."""
        return sum(one.count for one in self._waiting)

    async def compute(self, component: str, arrays: Arrays, until: float) -> dict[str, NDArray[Any]]:
        """Arrays (samples, …) by input -> arrays by output; `until` is the time, of the monotonic clock, after which nobody wants it.

        Raises:
            RefusedError: 504 the time is over; 400 the component does not take the arrays.
        """
        one = _Waiting(component, arrays, until, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._wake.set()
        try:
            return await asyncio.wait_for(one.future, max(until - time.monotonic(), 0))
        except TimeoutError as late:
            raise refuse_late() from late

    async def _work(self) -> None:
        while True:
            if not (batch := self._take_batch()):
                self._wake.clear()
                await self._wake.wait()
                continue
            now = time.monotonic()
            self.counts.batches += 1
            for one in batch:
                self.counts.samples += one.count
                self.counts.waited += now - one.since
            await self._compute_batch(batch)
            self.counts.computed += time.monotonic() - now

    def _take_batch(self) -> list[_Waiting]:
        """The one that has waited longest and those that fit to it; those that nobody waits for any more are dropped."""
        now = time.monotonic()
        alive = [one for one in self._waiting if not one.future.done() and one.until > now]
        if not alive:
            self._waiting.clear()
            return []
        first, taken, count = alive[0], [alive[0]], alive[0].count
        if first.component in self._together:
            for one in alive[1:]:
                if one.key == first.key and count + one.count <= self._most:
                    taken.append(one)
                    count += one.count
        self._waiting = deque(one for one in alive if one not in taken)
        return taken

    async def _compute_batch(self, batch: Sequence[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        joined = batch[0].arrays if len(batch) == 1 else {
            name: np.concatenate([one.arrays[name] for one in batch]) for name in batch[0].arrays
        }  # fmt: skip
        try:
            found = await loop.run_in_executor(self._executor, self._run, batch[0].component, joined)
        except Exception as failed:
            if len(batch) > 1:
                for one in batch:
                    await self._compute_batch([one])
                return
            _settle(batch[0].future, refuse_bad(str(failed)) if isinstance(failed, InputError) else failed)
            return
        begin = 0
        for one in batch:
            part = found if len(batch) == 1 else {name: value[begin : begin + one.count] for name, value in found.items()}
            begin += one.count
            _settle(one.future, part)


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():  # whoever asked has gone
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)

"""The one thread that computes, and how long its call has run, so that a runtime that hangs is noticed."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any


class WatchedThread(Executor):
    """A thread that takes one call after the other. Nothing can end a call from outside, but the end of the process."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._begun: float | None = None

    @property
    def busy_seconds(self) -> float:
        """How long the call that runs now has run; 0 where none does."""
        begun = self._begun
        return 0.0 if begun is None else time.monotonic() - begun

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Run `call(*arguments, **named)` when the calls before it are done."""
        return self._pool.submit(self._run, call, arguments, named)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As an executor's."""
        self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _run(self, call: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self._begun = time.monotonic()
        try:
            return call(*arguments, **named)
        finally:
            self._begun = None

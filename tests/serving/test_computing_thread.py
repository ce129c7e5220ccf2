"""How long the call that runs now has run, which is what a watchdog goes by."""

from __future__ import annotations

import asyncio
import threading

import pytest

from trimodal.serving.computing import WatchedThread


def test_it_is_busy_while_a_call_runs_and_not_while_one_waits() -> None:
    thread, go, begun = WatchedThread("compute"), threading.Event(), threading.Event()

    def hang() -> str:
        begun.set()
        go.wait(20)
        return "done"

    assert thread.busy_seconds == 0
    first, second = thread.submit(hang), thread.submit(max, 3, 4)
    assert begun.wait(20)
    before = thread.busy_seconds
    assert 0 < before < thread.busy_seconds and not second.done()
    go.set()
    assert (first.result(20), second.result(20)) == ("done", 4)
    thread.shutdown()
    assert thread.busy_seconds == 0


def test_a_call_that_fails_is_over() -> None:
    async def call() -> None:
        thread = WatchedThread("compute")
        with pytest.raises(ZeroDivisionError):
            await asyncio.get_running_loop().run_in_executor(thread, divmod, 1, 0)
        assert thread.busy_seconds == 0
        thread.shutdown()

    asyncio.run(call())

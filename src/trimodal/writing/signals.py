"""Renames and clean-ups that a signal cannot break off."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def defer_signals() -> Iterator[None]:
    """Hold back what would stop the program for as long as a rename or a clean-up takes; it comes right afterwards."""
    if threading.current_thread() is not threading.main_thread():  # Python runs handlers in the main thread only
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    left = (None, signal.SIG_IGN)  # None is not Python's to put back; nohup and a shell in the background have some ignored
    kept = {number: handler for number, handler in handlers.items() if handler not in left}
    try:
        for number in kept:
            signal.signal(number, lambda caught, frame: came.append(caught))
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])

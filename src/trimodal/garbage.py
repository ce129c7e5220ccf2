"""Python's search for garbage, in processes that are ours alone: the command line, and the one that proves that a folder reloads.

Imports make a million objects that stay. Python looks through all of them again and again while they are made, and once more
when the process ends: 1.5 of the 3.7 CPU seconds that torch and one class of Transformers take. A process that belongs to the
user is left as it is.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def freeze_imports() -> Iterator[None]:
    """Meanwhile nothing is looked through, and what is there afterwards never will be; all that comes later is."""
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if looking:
            gc.enable()


def skip_final_collection() -> None:
    """Let this process end without a last look through all that it holds. Files, exit handlers and threads end as ever."""
    atexit.register(gc.freeze)

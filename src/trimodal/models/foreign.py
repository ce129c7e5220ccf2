"""The one place where code runs that is not ours: a user's forward pass, factory function, `example`, `encode`, copy.

Such code may raise anything, also what derives from no `Exception`. Here it becomes a `ModelError` with the last line of
its cause; whoever only wants to learn something from the run catches that, whoever needs the run lets it pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import nn

from trimodal.errors import ModelError, TrimodalError

Result = TypeVar("Result")
_LONGEST = 240
_CHECK_DATA = "check that the data and the processor fit the model, or use a recipe that needs no data with --data none"


class StopForward(Exception):
    """Ends a forward pass whose rest nobody needs."""


def run_foreign(what: str, call: Callable[[], Result], advice: str = "") -> Result:
    """What `call` returns.

    Raises:
        ModelError: it raised something; the message says `what` failed, the last line of the cause, and the `advice`.
    """
    try:
        return call()
    except (StopForward, TrimodalError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ModelError(f"{what} failed ({last_line_of(error)}){f'; {advice}' if advice else ''}") from error


def run_forward(module: nn.Module, batch: Mapping[str, Any], advice: str = _CHECK_DATA) -> Any:
    """What the forward pass of `module` returns for the keyword arguments in `batch`.

    Raises:
        ModelError: it failed; the message names the module's class and the cause.
    """
    given = ", ".join(f"{name} {tuple(getattr(value, 'shape', ()))}" for name, value in batch.items())
    return run_foreign(f"the forward pass of {type(module).__name__} on {given or 'nothing'}", partial(module, **batch), advice)


def last_line_of(error: BaseException) -> str:
    """The type of `error` and the last line of its message that says something, short enough to read."""
    try:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    except Exception:  # its own __str__ is foreign too
        lines = []
    return f"{type(error).__name__}: {lines[-1][:_LONGEST]}" if lines else type(error).__name__

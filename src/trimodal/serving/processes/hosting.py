"""What a worker hosts: an ASGI application with a service behind it. The real one is in `application.py`; tests bring a small one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any, Protocol

from trimodal.errors import InputError
from trimodal.serving.processes.settings import ServeSettings

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class Stoppable(Protocol):
    """A server of another protocol that runs beside HTTP."""

    async def stop(self, grace: float) -> None:
        """Take nothing more, and wait at most `grace` seconds for what is under way."""


class Application(Protocol):
    """What a factory makes of `ServeSettings`. Making it may take its time; it happens before anything is answered."""

    app: Asgi

    @property
    def ready(self) -> bool:
        """Whether it can answer now."""

    @property
    def busy_seconds(self) -> float:
        """How long the one call that runs now, into code that can hang, has run; 0 where none does."""

    async def start(self) -> None:
        """Open everything, and prove that it answers as it should."""

    async def stop(self) -> None:
        """Let go of everything."""

    async def start_grpc(self, host: str, port: int) -> Stoppable | None:
        """Listen for gRPC at a port that other workers listen at too; None where it has none."""


def load_factory(name: str) -> Callable[[ServeSettings], Application]:
    """The function called `module:function`.

    Raises:
        InputError: there is no such function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function, None)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "trimodal":
            raise
        raise InputError(f"serving needs {error.name or module}, which is not installed; pip install 'trimodal[serve]'") from error
    if not callable(found):
        raise InputError(f"{name} is no function; give one as module:function")
    return found  # type: ignore[no-any-return]

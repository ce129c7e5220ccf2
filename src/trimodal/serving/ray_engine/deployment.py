"""The deployment: what a replica runs. Imported by Ray, in its own environment."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from ray import serve

from trimodal.serving.processes.gate import Gate
from trimodal.serving.processes.hosting import Application, Asgi, Receive, Scope, Send, load_factory
from trimodal.serving.processes.settings import ServeSettings, read_settings
from trimodal.serving.ray_engine.options import DEPLOYMENT, ENDING, describe_deployment
from trimodal.serving.ray_engine.urgency import LEAST, raise_process

_LOOK_SECONDS = 0.1


def build_deployment(arguments: dict[str, Any]) -> Any:
    """What Ray Serve runs, from the `args` of its configuration: those fields of `ServeSettings` that are given there. What the
    configuration says of the deployment itself goes before what is said here.
    """
    known = {one.name for one in fields(ServeSettings)}
    settings = read_settings(json.dumps({"limits": {}, **{name: value for name, value in arguments.items() if name in known}}))
    options = describe_deployment(settings.workers, settings.threads, settings.limits)

    def build_app() -> Asgi:
        return Replica(settings)

    class Ingress:
        """What Ray asks about the replica's health."""

        async def check_health(self) -> None:
            """Raise where the models do not answer: the replica is replaced then."""
            replica: Any = getattr(self, "_asgi_app", None)
            if replica is not None and replica.failed:
                raise RuntimeError("the service of this replica does not answer")

    return serve.deployment(serve.ingress(build_app)(Ingress), name=DEPLOYMENT, **options).bind()


class Replica:
    """An ASGI application that opens what it serves when it is begun (`lifespan`), and lets go of it when it ends.

    Ray takes the proxy away at the same time as the replicas, and with it the answers that are under way. So what `trimodal serve` starts
    is told before, by a file `ENDING` in the folder that `extra` names: it refuses what is new, and writes a file of its own there when
    nothing is under way.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._application: Application | None = None
        self._gate: Gate | None = None

    @property
    def failed(self) -> bool:
        """Whether it was begun and is not ready now, or hangs in a runtime."""
        application, most = self._application, self._settings.limits.compute_seconds
        return application is not None and (not application.ready or 0 < most < application.busy_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin and end, and answer in between."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            assert self._gate is not None, "begun first"
            await self._gate(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await _import_aside(self._settings.preload)
            application = load_factory(self._settings.factory)(self._settings)
            await application.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            return
        raise_process(os.getpid())
        self._gate = gate = Gate(application.app)
        gate.group_ready, self._application = True, application
        place = self._settings.extra.get(ENDING)
        watching = asyncio.create_task(_drain_when_told(gate, Path(place))) if place else None
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if watching is not None:
            watching.cancel()
        await application.stop()
        await send({"type": "lifespan.shutdown.complete"})


async def _import_aside(modules: Sequence[str]) -> None:
    """Import what takes seconds of a processor in a thread that lets all others go first: replicas that serve are on this machine too."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def import_all() -> None:
        os.nice(LEAST)  # of this thread, on Linux
        try:
            for module in modules:
                import_module(module)
        finally:  # whoever needs what could not be imported says so
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=import_all, daemon=True).start()
    await done.wait()


async def _drain_when_told(gate: Gate, place: Path) -> None:
    while not (place / ENDING).exists():
        await asyncio.sleep(_LOOK_SECONDS)
    gate.phase = "draining"
    while gate.under_way:
        await asyncio.sleep(_LOOK_SECONDS)
    with suppress(OSError):
        (place / str(os.getpid())).touch()

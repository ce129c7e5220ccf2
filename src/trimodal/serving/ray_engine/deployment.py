"""The deployment: what a replica runs. Imported by Ray, in its own environment."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from ray import serve

from trimodal.serving.processes.hosting import Application, Asgi, Receive, Scope, Send, load_factory
from trimodal.serving.processes.settings import ServeSettings, read_settings
from trimodal.serving.ray_engine.options import DEPLOYMENT, describe_deployment


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
    """An ASGI application that opens what it serves when it is begun (`lifespan`), and lets go of it when it ends."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._application: Application | None = None

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
            assert self._application is not None, "begun first"
            await self._application.app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            application = load_factory(self._settings.factory)(self._settings)
            await application.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            return
        self._application = application
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await application.stop()
        await send({"type": "lifespan.shutdown.complete"})

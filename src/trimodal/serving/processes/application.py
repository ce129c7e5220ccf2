"""The real application of a worker: the served folders, their service, and the protocols over it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from trimodal.errors import InputError
from trimodal.serving.grpc.server import start_grpc_server
from trimodal.serving.http.app import make_app
from trimodal.serving.http.metrics import Metrics
from trimodal.serving.http.playground_routes import list_playground_routes
from trimodal.serving.http.settings import Settings
from trimodal.serving.http.tracing import start_tracing
from trimodal.serving.processes.hosting import Asgi, Stoppable
from trimodal.serving.processes.settings import ServeSettings
from trimodal.serving.served_model import open_served
from trimodal.serving.service import Service

_OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")
_LEAST_KEY = 16


def open_application(settings: ServeSettings) -> ServedApplication:
    """Open the folders; nothing is answered yet.

    Raises:
        InputError: a folder or the file of keys cannot be used.
        IntegrityError: a file of a folder is missing or has changed.
    """
    keys = read_keys(settings.api_key_file)
    names = settings.names or ("",) * len(settings.folders)
    models = [open_served(folder, name, threads=settings.threads) for folder, name in zip(settings.folders, names)]
    service = Service(models, settings.limits)
    return ServedApplication(service, Settings(keys=keys, hosts=choose_hosts(settings.host, settings.allowed_hosts)))


class ServedApplication:
    """A service, offered over HTTP and gRPC."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service, self._settings, self._metrics = service, settings, Metrics(service)
        self.app: Asgi = make_app(service, settings, list_playground_routes(), self._metrics)

    @property
    def ready(self) -> bool:
        """Whether every model answers."""
        return self._service.ready

    @property
    def busy_seconds(self) -> float:
        """How long one call into a runtime has run."""
        return self._service.busy_seconds

    async def start(self) -> None:
        """Begin the service, which tries every model."""
        start_tracing()
        await self._service.start()

    async def stop(self) -> None:
        """End the service."""
        await self._service.stop()

    async def start_grpc(self, host: str, port: int) -> Stoppable | None:
        """Listen for gRPC, beside the other workers.

        Raises:
            InputError: the port cannot be had.
        """
        server: Stoppable = await start_grpc_server(
            self._service, host, port, self._settings.keys, self._metrics.take_counts
        )
        return server


def read_keys(file: str | None) -> tuple[str, ...]:
    """One key per line; empty lines and those that begin with # are left out.

    Raises:
        InputError: there is none in it, one is short enough to be guessed, or is not plain text.
    """
    if file is None:
        return ()
    try:
        lines = [line.strip() for line in Path(file).read_text(encoding="ascii").splitlines()]
    except (OSError, UnicodeError) as error:
        raise InputError(f"--api-key-file {file} cannot be read as plain text; write one key per line into it") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys or any(len(key) < _LEAST_KEY for key in keys):
        raise InputError(
            f"--api-key-file {file} needs at least one key, each of {_LEAST_KEY} characters or more; openssl rand -hex 24 makes one"
        )
    return keys


def choose_hosts(host: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """The names by which the server may be called. Where only this machine is served, a foreign web page must not reach it under a name
    of its own; elsewhere any name will do unless some are said."""
    try:
        local = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        local = False
    return (*(_OWN_NAMES if local or allowed else ()), *(name.lower() for name in allowed))

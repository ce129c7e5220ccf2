"""From what the command line was told to a server that runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from trimodal.errors import InputError
from trimodal.serving.limits import Limits
from trimodal.serving.media.addresses import read_places
from trimodal.serving.processes.serve import serve
from trimodal.serving.processes.settings import ServeSettings, share_cores
from trimodal.serving.ray_engine.run import run_on_ray

Engine = Literal["local", "ray"]
_NEEDED = ("uvicorn", "starlette", "h11", "prometheus_client")


@dataclass(frozen=True)
class Asked:
    """The options of `trimodal serve`, as given; None where nothing was said: `port` of HTTP and `grpc_port`, how many processes
    (`workers`) and threads of each, how many samples may wait (`queue`), places that files may be fetched from."""

    folders: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = None
    workers: int | None = None
    threads: int | None = None
    api_key_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    json_log: bool = False
    drain_seconds: float = 30.0
    queue: int = 256
    watch_seconds: float = 2.0
    media_hosts: tuple[str, ...] = ()


def run_server(asked: Asked, engine: Engine = "local") -> int:
    """Serve until told to end; the exit code.

    Raises:
        InputError: something that was given cannot be used, or a package is missing.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise InputError(f"serving needs {', '.join(missing)}, which are not installed; pip install 'trimodal[serve]'")
    settings = make_settings(asked)
    return run_on_ray(settings) if engine == "ray" else serve(settings)


def make_settings(asked: Asked) -> ServeSettings:
    """What each process is told.

    Raises:
        InputError: a number or name that cannot be.
    """
    workers, threads = share_cores(asked.workers, asked.threads)
    for option, number in (("--drain-seconds", asked.drain_seconds), ("--watch", asked.watch_seconds), ("--queue", asked.queue)):
        if not 0 <= number < float("inf"):
            raise InputError(f"{option} is {number}; give a number from 0 up")
    read_places(asked.media_hosts)
    names, folders = zip(*(split_name(one) for one in asked.folders))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two models are called {twice[0]!r}; give one another name: NAME=FOLDER")
    return ServeSettings(
        folders, asked.host, asked.port, asked.grpc_port, workers, threads,
        None if asked.api_key_file is None else str(asked.api_key_file.absolute()), names=names, allowed_hosts=asked.allowed_hosts,
        json_log=asked.json_log, watch_seconds=asked.watch_seconds,
        limits=replace(Limits(), drain_seconds=asked.drain_seconds, queue=asked.queue, media_hosts=asked.media_hosts),
    )  # fmt: skip


def split_name(text: str) -> tuple[str, str]:
    """NAME=FOLDER, or a folder, which goes by its own name; a link by the link's.

    Raises:
        InputError: the name could not be part of a route.
    """
    name, given, folder = text.rpartition("=") if not Path(text).is_dir() else ("", "", text)
    place = Path(folder).absolute()
    name = name if given else place.name
    if not name or not all(sign.isalnum() or sign in "-_." for sign in name) or name.startswith("."):
        raise InputError(f"{name!r} cannot be the name of a model; give one of letters, digits, - _ and . with NAME=FOLDER")
    return name, str(place)

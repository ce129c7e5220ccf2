"""What `trimodal serve` was told, as plain data that is handed to each process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trimodal.errors import InputError
from trimodal.machine import count_cores
from trimodal.serving.limits import Limits

FACTORY = "trimodal.serving.processes.application:open_application"
PRELOADED = ("trimodal.serving.processes.worker", "trimodal.serving.processes.application")
"""What every worker needs. Nothing here may start a thread when it is imported, as ONNX Runtime and OpenVINO do: none is forked along."""
USUAL_WORKERS = 2
MOST_WORKERS = 256


@dataclass(frozen=True)
class ServeSettings:
    """One run of `trimodal serve`.

    Attributes:
        folders: artifacts and exported folders, absolute.
        host: address to listen at; `port` for HTTP (0: a free one), `grpc_port` for gRPC where that is wanted.
        workers: processes that answer; `threads` that each of them computes with.
        api_key_file: one key per line; without it nobody is asked for one.
        names: of the models, folder by folder; without them that of the folder.
        allowed_hosts: names by which the server may be called, besides its own; without them any, where not only this machine is served.
        json_log: events as JSON, one per line.
        factory: `module:function` that makes an `Application` of these settings.
        preload: modules that are imported once, before workers are forked.
        limits: how much a client may ask for.
        beat_seconds: how often a worker says that it lives; after `hang_seconds` without a word it is killed.
        notice_seconds: that a drain lasts at the least, so that clients and balancers hear of it before connections are closed.
        start_seconds: that a worker may take until it is ready.
        watch_seconds: how often the folders are looked at for a new version; 0 for never.
        metrics: folder of the counters that workers share.
        extra: what the factory may need besides, as plain data.
    """

    folders: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = None
    workers: int = 1
    threads: int = 1
    api_key_file: str | None = None
    names: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    json_log: bool = False
    factory: str = FACTORY
    preload: tuple[str, ...] = PRELOADED
    limits: Limits = field(default_factory=Limits)
    beat_seconds: float = 0.5
    hang_seconds: float = 10.0
    notice_seconds: float = 1.0
    start_seconds: float = 180.0
    watch_seconds: float = 2.0
    metrics: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """As text that `read_settings` reads."""
        return json.dumps(asdict(self))

    def with_folders(self, folders: tuple[str, ...]) -> ServeSettings:
        """The same for other folders."""
        return replace(self, folders=folders)


def read_settings(text: str) -> ServeSettings:
    """What `to_json` wrote."""
    found: dict[str, Any] = json.loads(text)
    limits: dict[str, Any] = found["limits"]
    found["limits"] = Limits(**limits | {"media_hosts": tuple(limits["media_hosts"])})
    found |= {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    return ServeSettings(**found)


def share_cores(workers: int | None, threads: int | None, cores: int | None = None) -> tuple[int, int]:
    """How many workers, and with how many threads each: together as many as there are processors, unless both are said.

    Raises:
        InputError: a number that cannot be.
    """
    cores = cores or count_cores()
    for name, number in (("--workers", workers), ("--threads", threads)):
        if number is not None and not 1 <= number <= MOST_WORKERS:
            raise InputError(f"{name} is {number}; give a whole number from 1 to {MOST_WORKERS} (this machine has {cores} processors)")
    if workers is None:
        workers = min(USUAL_WORKERS, cores) if threads is None else max(1, cores // threads)
    return workers, threads or max(1, cores // workers)

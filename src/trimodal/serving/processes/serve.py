"""The verb: bind, and supervise."""

from __future__ import annotations

import shutil
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

from trimodal.errors import InputError
from trimodal.serving.processes.events import EventLog
from trimodal.serving.processes.lineage import check_system
from trimodal.serving.processes.settings import ServeSettings
from trimodal.serving.processes.sockets import bind_socket, find_port, reserve_port
from trimodal.serving.processes.supervisor import supervise

_SHARED_MEMORY = Path("/dev/shm")
_COUNTER_BYTES = 16 << 20


def serve(settings: ServeSettings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    Raises:
        InputError: a folder, file, address or port cannot be used.
        ServeError: workers end before any of them was ready.
    """
    check_system()
    _check_paths(settings)
    http = bind_socket(settings.host, settings.port)
    reserved: socket.socket | None = None
    counters = make_counter_folder()
    try:
        if settings.grpc_port is not None:
            reserved = reserve_port(settings.host, settings.grpc_port)
        grpc_port = find_port(reserved) if reserved else None
        known = replace(settings, metrics=str(counters), port=find_port(http), grpc_port=grpc_port)
        return supervise(known, [http], EventLog(settings.json_log))
    finally:
        http.close()
        if reserved is not None:
            reserved.close()
        shutil.rmtree(counters, ignore_errors=True)


def make_counter_folder() -> Path:
    """A new folder for the counters that workers share, in memory where there is room: a full disk would end whoever counts."""
    try:
        roomy = shutil.disk_usage(_SHARED_MEMORY).free > _COUNTER_BYTES
        return Path(tempfile.mkdtemp(prefix="trimodal-counters-", dir=_SHARED_MEMORY if roomy else None))
    except OSError:
        return Path(tempfile.mkdtemp(prefix="trimodal-counters-"))


def _check_paths(settings: ServeSettings) -> None:
    for folder in settings.folders:
        if not Path(folder).is_dir():
            raise InputError(f"{folder} is no folder; give one that trimodal compress or trimodal export wrote")
    if settings.api_key_file is not None and not Path(settings.api_key_file).is_file():
        raise InputError(f"--api-key-file {settings.api_key_file} is no file; write one key per line into it")

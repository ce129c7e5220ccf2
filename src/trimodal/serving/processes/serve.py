"""The verb: bind, and supervise."""

from __future__ import annotations

import os
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
_COUNTERS = "trimodal-counters-"


def serve(settings: ServeSettings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code.

    Raises:
        InputError: a folder, file, address or port cannot be used.
        ServeError: workers end before any of them was ready.
    """
    check_system()
    check_paths(settings)
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


def make_counter_folder(shared: Path = _SHARED_MEMORY) -> Path:
    """A new folder for the counters that workers share, in memory where there is room: a full disk would end whoever counts. Folders of
    supervisors that are no more, killed before they could take theirs away, are taken away.

    Raises:
        InputError: there is no place that can be written to.
    """
    prefix = f"{_COUNTERS}{os.getpid()}-"
    try:
        _remove_left_counters(shared)
        roomy = shutil.disk_usage(shared).free > _COUNTER_BYTES
        return Path(tempfile.mkdtemp(prefix=prefix, dir=shared if roomy else None))
    except OSError:
        return _make_folder_elsewhere(prefix, shared)


def _make_folder_elsewhere(prefix: str, shared: Path) -> Path:
    for place in (None, shared):
        try:
            return Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        except OSError:
            continue
    raise InputError(f"no temporary folder can be made, neither on a disk nor in {shared}; name one that can be written to by TMPDIR=…")


def _remove_left_counters(shared: Path) -> None:
    for folder in shared.glob(f"{_COUNTERS}*-*"):
        owner = folder.name.removeprefix(_COUNTERS).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists() and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)


def check_paths(settings: ServeSettings) -> None:
    """Refuse folders and files that are not there.

    Raises:
        InputError: which one.
    """
    for folder in settings.folders:
        if not Path(folder).is_dir():
            raise InputError(f"{folder} is no folder; give one that trimodal compress or trimodal export wrote")
    if settings.api_key_file is not None and not Path(settings.api_key_file).is_file():
        raise InputError(f"--api-key-file {settings.api_key_file} is no file; write one key per line into it")

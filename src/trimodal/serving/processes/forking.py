"""How the supervisor gets workers: it starts the zygote, and asks it for them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from trimodal.errors import TrimodalError
from trimodal.serving.processes.channel import write_message
from trimodal.serving.processes.settings import ServeSettings

_PROMPTLY = "PYTHONUNBUFFERED"


class ZygoteError(TrimodalError):
    """The process that workers are forked from cannot be used."""


def start_zygote(settings: ServeSettings, listening: Sequence[socket.socket]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start it, with the sockets that its workers will accept from; and our end of what it is asked over."""
    ours, theirs = socket.socketpair()
    numbers = [one.fileno() for one in listening]
    command = [sys.executable, "-m", "trimodal.serving.processes.zygote", str(theirs.fileno()), str(os.getpid())]
    process = subprocess.Popen(
        command, pass_fds=(theirs.fileno(), *numbers), env=_make_surroundings(settings), stdin=subprocess.DEVNULL, process_group=0
    )
    theirs.close()
    ours.sendall(write_message({"settings": settings.to_json(), "listening": numbers}))
    return process, ours


def ask_for_worker(control: socket.socket, slot: int, folders: Sequence[str]) -> socket.socket:
    """Let a worker be forked, and give back the supervisor's end of its channel; that is closed where no worker comes of it.

    Raises:
        ZygoteError: nobody is there to be asked.
    """
    ours, theirs = socket.socketpair()
    line = write_message({"slot": slot, "folders": list(folders), "supervisor": os.getpid()})
    try:
        socket.send_fds(control, [line], [theirs.fileno()])
    except OSError as error:
        ours.close()
        raise ZygoteError(f"no worker can be forked ({error.strerror})") from error
    finally:
        theirs.close()
    return ours


def _make_surroundings(settings: ServeSettings) -> dict[str, str]:
    """The environment of workers: as many threads as they shall have, before any library reads how many."""
    threads = str(settings.threads)
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    fixed = {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "GRPC_ENABLE_FORK_SUPPORT": "false", _PROMPTLY: "1"}
    shared = {"PROMETHEUS_MULTIPROC_DIR": settings.metrics} if settings.metrics else {}
    usual = {"TRANSFORMERS_VERBOSITY": "error", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    return {**usual, **os.environ, **wanted, **fixed, **shared, **find_scratch(settings)}


def find_scratch(settings: ServeSettings) -> dict[str, str]:
    """Where no disk can be written to, temporary files lie beside the counters: torch cannot be imported without a place for them."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        return {"TMPDIR": settings.metrics} if settings.metrics else {}
    return {}

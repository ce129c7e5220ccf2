"""A real server of the stub application in processes of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server_process import PATIENCE, Server

HERE = Path(__file__).parent
SOURCE = HERE.parents[2] / "src"
PROGRAM = """
import json
import sys
from trimodal.serving.limits import Limits
from trimodal.serving.processes.serve import serve
from trimodal.serving.processes.settings import ServeSettings
given = json.loads(sys.argv[1])
given["limits"] = Limits(**given.get("limits", {}))
given["preload"] = tuple(given["preload"])
sys.exit(serve(ServeSettings(tuple(given.pop("folders")), port=0, json_log=True, factory="stub_application:open_stub", **given)))
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.02)


@contextmanager
def running(folder: Path, *, version: str = "one", **settings: Any) -> Iterator[Server]:
    """A server of `folder`, ready; killed afterwards if it still runs."""
    (folder / "version.txt").write_text(version)
    given = json.dumps({"folders": [str(folder)], "workers": 2, "preload": ["trimodal.serving.processes.worker"], **settings})
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join((str(SOURCE), str(HERE)))}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, given], stderr=subprocess.PIPE, text=True, env=surroundings)
    server = Server(process)
    try:
        if version not in ("bad", "crash"):
            server.port = int(server.wait_for("serving")["url"].rpartition(":")[2])
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stderr is not None

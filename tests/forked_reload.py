"""The reload check's process for tests, forked from one that has imported what it needs, instead of started anew.

A compressed folder is loaded by a fresh process, whose imports take three seconds of the processor: longer than all else that
compressing a miniature does. Here one process per test worker imports, loads no model and starts no thread, and each check runs in a
fork of it, which has no memory of the model either. Processes that are really new check folders in
`tests/formats/test_reload_check.py`, in `tests/e2e` wherever the command line has a process of its own, and everywhere with
`TRIMODAL_TEST_FRESH=1`, as in `make test-all`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimodal.formats.reload_check import run_reload_probe

PROGRAM = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import forked_reload; forked_reload.serve()"


class ForkedReload:
    """Stands in for the module `subprocess` in `trimodal.formats.reload_check`: its own program is forked, all others are started."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._server: subprocess.Popen[str] | None = None

    def run(self, command: Sequence[str], *, env: Mapping[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` with text captured."""
        ours = list(command[:4]) == [sys.executable, "-P", "-c", self._program]
        if not ours or env.get("PYTHONPATH") != os.environ.get("PYTHONPATH"):
            return subprocess.run(command, env=env, **options)
        server = self._start()
        assert server.stdin is not None and server.stdout is not None
        with tempfile.TemporaryDirectory(dir=env["TMPDIR"]) as folder:
            asked = {"arguments": list(command[4:]), "env": dict(env), "cwd": str(Path.cwd()), "said": folder}
            server.stdin.write(json.dumps(asked) + "\n")
            server.stdin.flush()
            code = int(server.stdout.readline())
            out, err = ((Path(folder) / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return subprocess.CompletedProcess(list(command), code, out, err)

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            assert self._server.stdin is not None
            self._server.stdin.close()
            self._server.wait(20)

    def _start(self) -> subprocess.Popen[str]:
        if self._server is None or self._server.poll() is not None:
            command = [sys.executable, "-P", "-c", PROGRAM]
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self._server


def serve() -> None:
    """Fork for each line of standard input; say how the fork ended."""
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            os._exit(_run(asked))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(asked: dict[str, Any]) -> int:
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    tempfile.tempdir = None  # ask the environment again
    sys.argv = ["-c", *asked["arguments"]]
    with (Path(asked["said"]) / "out").open("w") as out, (Path(asked["said"]) / "err").open("w") as err:
        sys.stdout, sys.stderr = out, err
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            run_reload_probe()
        except BaseException:
            traceback.print_exc()
            return 1
        finally:
            out.flush()
            err.flush()
    return 0

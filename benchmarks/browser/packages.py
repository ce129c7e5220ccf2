"""npm's packages in a folder of their own, the scripts that use them, and the server that the page is opened from."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "examples" / "browser" / "index.html"
PACKAGES = ROOT / ".cache" / "browser"


def find_missing() -> str | None:
    """Why nothing can be run here, in words, or None."""
    absent = [name for name in ("node", "npm") if shutil.which(name) is None]
    return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed" if absent else None


def find_chromium() -> str | None:
    """The path of a Chromium, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def install_packages() -> None:
    """The packages of package-lock.json, and the scripts beside them, where Node looks packages up; anew if the lock changed."""
    PACKAGES.mkdir(parents=True, exist_ok=True)
    lock, ready = HERE / "package-lock.json", PACKAGES / "installed-lock.json"
    for path in (HERE / "package.json", lock, *HERE.glob("*.mjs")):
        shutil.copy(path, PACKAGES)
    if not ready.exists() or ready.read_bytes() != lock.read_bytes():
        quiet = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=PACKAGES, env=quiet, check=True, stdout=subprocess.DEVNULL)
        shutil.copy(lock, ready)


def run_script(name: str, *arguments: str) -> Any:
    """What `name` prints, as JSON: its last line."""
    done = subprocess.run(["node", name, *arguments], cwd=PACKAGES, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """The address of a server on this machine that gives out `folder`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

"""A folder that `docker build` makes an image of: the artifact, our source, and the packages pinned."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from trimodal.packaging.bundle import GRPC_PORT, PORT, Bundle, copy_files
from trimodal.packaging.pins import TORCH, list_pins
from trimodal.packaging.writing import render, write_files

USER = 10001
_SOURCE = Path(__file__).resolve().parents[1]
_SKIPPED = shutil.ignore_patterns("__pycache__", "*.pyc")


def write_docker(bundle: Bundle, out: Path) -> list[str]:
    """Dockerfile, requirements.txt, `models/` and `app/`; paths below `out`."""
    pins = list_pins()
    torch = next(pin for pin in pins if pin.startswith(f"{TORCH}=="))
    version = ".".join(map(str, sys.version_info[:2]))
    values = {"bundle": bundle, "torch": torch, "python": version, "user": USER, "port": PORT, "grpc_port": GRPC_PORT}
    written = write_files(out, {
        "Dockerfile": render("Dockerfile.j2", command=list_command(bundle), **values),
        ".dockerignore": "*\n!Dockerfile\n!requirements.txt\n!app\n!models\n",
        "requirements.txt": "\n".join(pin for pin in pins if pin != torch) + "\n",
    })  # fmt: skip
    copied = copy_files(bundle.folder, out / "models" / bundle.name)
    shutil.copytree(_SOURCE, out / "app" / "trimodal", ignore=_SKIPPED)
    return [*written, *(f"models/{bundle.name}/{name}" for name in copied), "app/trimodal"]


def list_command(bundle: Bundle) -> list[str]:
    """What the container runs, word by word: no shell reads it."""
    return [
        "python", "-m", "trimodal", "serve", f"{bundle.name}=/models/{bundle.name}", "--host", "0.0.0.0", "--port", str(PORT),
        "--grpc-port", str(GRPC_PORT), "--workers", str(bundle.workers), "--threads", str(bundle.threads),
        "--drain-seconds", f"{bundle.limits.drain_seconds:g}", "--watch", "0", "--log", "json",
    ]  # fmt: skip

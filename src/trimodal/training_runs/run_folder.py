"""The folder of a run under way, `OUT.run`: whose it is, and that one process alone is at it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trimodal.errors import InputError, OutputError
from trimodal.training.settings import RunFolder, count_processes, is_main_process
from trimodal.writing import write_text_atomically

try:
    import fcntl
except ImportError:  # a system without locks
    fcntl = None  # type: ignore[assignment]

_SETTINGS = "settings.json"
FREE_TO_CHANGE = ("output", "track", "device", "data")  # what a resumed run may say otherwise; data are known by their content


@contextmanager
def hold_run(run: RunFolder) -> Iterator[None]:
    """While open, no other command trains into this folder; a kill lets go of it.

    Raises:
        OutputError: another one is at it.
    """
    if not is_main_process() or fcntl is None:
        yield
        return
    run.path.parent.mkdir(parents=True, exist_ok=True)
    lock = run.path.with_name(f".{run.path.name}.lock")
    held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise OutputError(f"another run is at work in {run.path}; wait until it ends, or give another output") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(held)


def prepare_run(run: RunFolder, said: Mapping[str, Any], resume: bool, force: bool) -> None:
    """Make the run's folder, or find that it is of the very run that `said` describes.

    Raises:
        OutputError: there is a run that neither resume nor force speaks of.
        InputError: the run to resume is another.
    """
    if not is_main_process():
        return
    said, file = {**said, "processes": count_processes()}, run.path / _SETTINGS
    if resume and file.is_file():
        _check_same_run(json.loads(file.read_text(encoding="utf-8")), said, run)
        return
    if run.path.exists() and not (force or resume):
        raise OutputError(f"{run.path} holds a run that was not finished; go on with --resume, or begin anew with --force")
    if run.path.exists():
        shutil.rmtree(run.path)
    run.path.mkdir(parents=True)
    write_text_atomically(file, json.dumps(said, indent=1) + "\n")


def _check_same_run(before: Mapping[str, Any], now: Mapping[str, Any], run: RunFolder) -> None:
    changed = [key for key in now if key not in FREE_TO_CHANGE and before.get(key) != now[key]]
    if changed:
        shown = ", ".join(f"{key} was {before.get(key)!r:.40} and is {now[key]!r:.40}" for key in changed[:3])
        raise InputError(f"the run in {run.path} is another: {shown}; resume it as it was, or begin anew with --force")

"""A version is tried in a process of its own, which gives way to all others, before any replica ends for it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from trimodal.errors import TrimodalError
from trimodal.runtimes.environment import make_command
from trimodal.serving.processes.hosting import load_factory
from trimodal.serving.processes.settings import ServeSettings, read_settings
from trimodal.serving.ray_engine.urgency import LEAST

Failure = tuple[str, int]
"""What is wrong, and the exit code for it."""


def begin_trial(settings: ServeSettings) -> subprocess.Popen[str]:
    """Open the application once."""
    command = make_command(Path(sys.executable), "serving.ray_engine.trial:main", settings.to_json())
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.nice(LEAST))


def end_trial(trial: subprocess.Popen[str]) -> Failure | None:
    """What came of it."""
    said = trial.communicate()[0].splitlines()
    if trial.returncode or not said:
        return f"the process that tried it ended with {trial.returncode}", 1
    message, code = json.loads(said[-1])
    return (cast(str, message), cast(int, code)) if code else None


def main(arguments: Sequence[str]) -> None:
    """Try the settings in the first argument; the message and exit code are the last line on standard output."""
    print(json.dumps(try_application(read_settings(arguments[0])) or ("", 0)))


def try_application(settings: ServeSettings) -> Failure | None:
    """Open what the settings say, let it prove itself, and let go of it."""

    async def live() -> None:
        application = load_factory(settings.factory)(settings)
        await application.start()
        await application.stop()

    try:
        asyncio.run(live())
    except TrimodalError as error:
        return str(error), error.exit_code
    except Exception as error:
        return f"{type(error).__name__}: {error}", 1
    return None

"""The command line as a user meets it: real processes, and the same `main` called in this one where many calls are made."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from transformers.utils.logging import disable_progress_bar

from trimodal import cli
from trimodal.networks.tiny import write_miniature, write_miniature_data

PATIENCE_SECONDS = 900  # of a process that takes seconds: the machine may be busy with twenty others
RECIPE = """
seed: 3
calibration: {samples: 8}
steps:
  - prune.heads: {where: "image.*", sparsity: 0.5}
  - prune.magnitude: {where: "text.0.up", sparsity: 0.5}
  - factorize.eigen: {where: "text.1.down", rank: 8}
  - quantize.rtn: {where: "*embedding*", bits: 8}
  - quantize.gptq: {where: "*", bits: 4, group: 16}
"""


@dataclass
class Done:
    """What a call of the command line left behind; `told` are the lines on standard error that say what is going on."""

    code: int
    out: str
    err: str
    told: str = ""

    @staticmethod
    def of(code: int, out: str, err: str) -> Done:
        """With what was told apart from what went wrong."""
        lines = err.splitlines(keepends=True)
        told = [line for line in lines if line.startswith(("reading ", "needs about "))]
        return Done(code, out, "".join(line for line in lines if line not in told), "".join(told))


def command() -> list[str]:
    """The installed `trimodal`, or what stands behind it."""
    script = Path(sys.executable).with_name("trimodal")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "trimodal.cli"]


def environment(**changes: str) -> dict[str, str]:
    """As many threads as this process has, so that numbers are the same in all."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), **changes}


def process(*arguments: str | Path, cwd: Path | None = None, **changes: str) -> Done:
    """A real `trimodal` process."""
    done = subprocess.run(
        [*command(), *map(str, arguments)],
        cwd=cwd,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return Done.of(done.returncode, done.stdout, done.stderr)


def call(*arguments: str | Path) -> Done:
    """`main` in this process, everything that it sets put back afterwards."""
    out, err = io.StringIO(), io.StringIO()
    disable_progress_bar()  # as a process of its own has it from its environment
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(sys, "argv", ["trimodal", *map(str, arguments)]))
        stack.enter_context(patch.dict(os.environ))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stopped = stack.enter_context(pytest.raises(SystemExit))
        cli.main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert isinstance(stopped.value.code, int)
    return Done.of(stopped.value.code, out.getvalue(), err.getvalue())


def listing(folder: Path) -> set[str]:
    """Everything in a folder, hidden or not."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@dataclass
class Workspace:
    """A folder with miniatures and data, each made once, and real processes that run two at a time."""

    root: Path
    pool: ThreadPoolExecutor
    running: dict[str, Future[Done]] = field(default_factory=dict)

    def begin(self) -> None:
        """The main job on a CLIP, every verb a process of its own; `out-a` and `out-b` come from the same seed."""
        clip, pairs = self.model("clip"), self.data("image", "text")
        recipe = self.root / "recipe.yaml"
        recipe.write_text(RECIPE)
        same = ("--recipe", recipe, "--data", pairs, "--json")
        self.start("out-a", "compress", clip, *same, "-o", "out-a")
        self.start("out-b", "compress", clip, *same, "-o", "out-b")
        self.start("inspect", "inspect", clip, "--json")
        self.start("plan", "plan", clip, *same, "-o", "plan.json")
        self.start("methods", "methods", "quantize.gptq", "--json")
        self.start("recipes", "recipes", "--json")

    def model(self, name: str) -> Path:
        """The folder of a miniature."""
        folder = self.root / "models" / name
        return folder if folder.is_dir() else write_miniature(name, folder)

    def data(self, *modalities: str, n: int = 20) -> Path:
        """A data file with these modalities."""
        file = self.root / "data" / f"{'-'.join(modalities)}-{n}" / "data.jsonl"
        return file if file.is_file() else write_miniature_data(file.parent, n, modalities)

    def start(self, name: str, *arguments: str | Path) -> None:
        """Begin a process called `name`."""
        self.running[name] = self.pool.submit(process, *arguments, cwd=self.root)

    def done(self, name: str) -> Done:
        """What the process called `name` left behind, once it has ended."""
        return self.running[name].result()


def said_clearly(text: str, *words: str) -> None:
    """One line of one or two sentences that hold `words`, no traceback."""
    assert text.startswith("error: ") and text.count("\n") == 1 and "Traceback" not in text, text
    assert 20 < len(text) < 700, text
    for word in words:
        assert word in text, text

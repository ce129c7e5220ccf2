"""Python environments beside this one: packages that cannot be installed together with ours run there, as another process.

Which interpreter that is: this one where the packages are importable, else the one that a variable names (`TRIMODAL_LITERT_PYTHON`), else
that of a folder (`.venv-litert`) below the working folder or beside the source, as `make litert` sets it up.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trimodal.errors import InputError

_SOURCE = Path(__file__).resolve().parents[2]
_SHOWN = 12


@dataclass(frozen=True)
class Environment:
    """An environment by the name that `make` has for it, and the modules that must be importable in it."""

    name: str
    modules: tuple[str, ...]

    @property
    def variable(self) -> str:
        """The environment variable that names its interpreter."""
        return f"TRIMODAL_{self.name.upper()}_PYTHON"

    @property
    def here(self) -> bool:
        """Whether this process can import the modules itself."""
        return all(importlib.util.find_spec(module) is not None for module in self.modules)

    def find_python(self) -> Path:
        """Its interpreter.

        Raises:
            InputError: there is none, or the one that the variable names has not got the modules.
        """
        if self.here:
            return Path(sys.executable)
        named = os.environ.get(self.variable)
        if named:
            return self._check_named(Path(named).absolute())  # not resolved: the interpreter of an environment is a link
        for folder in (Path.cwd(), _SOURCE.parent):
            python = folder / f".venv-{self.name}" / "bin" / "python"
            if python.exists() and can_import(python, self.modules):
                return python
        raise InputError(
            f"{self.name} needs {', '.join(self.modules)}, which are not installed here; run make {self.name} in trimodal's repository, or "
            f"install what requirements-{self.name}.lock lists into an environment of its own and name its interpreter in {self.variable}"
        )

    def _check_named(self, python: Path) -> Path:
        if not python.exists():
            raise InputError(f"{self.variable} names {python}, which is not there; name an environment's interpreter (…/bin/python)")
        if not can_import(python, self.modules):
            raise InputError(f"{self.variable} names {python}, which cannot import {', '.join(self.modules)}; install them there")
        return python


@cache
def can_import(python: Path, modules: tuple[str, ...]) -> bool:
    """Whether the interpreter finds all the modules, without importing them."""
    code = f"import importlib.util as u, sys; sys.exit(not all(u.find_spec(m) for m in {modules!r}))"
    return subprocess.run([python, "-I", "-c", code], capture_output=True, check=False).returncode == 0


def make_command(python: Path, function: str, *arguments: str) -> list[str]:
    """What to run so that `python` calls `trimodal.MODULE:NAME` with `sys.argv`. Our source comes last on its path: its own packages
    go before those that happen to be installed beside us."""
    module, _, name = function.partition(":")
    code = f"import sys; sys.path.append({str(_SOURCE)!r}); from trimodal.{module} import {name}; {name}(sys.argv[1:])"
    return [str(python), "-I", "-c", code, *arguments]


def run_program(python: Path, program: Path, arguments: Sequence[str]) -> None:
    """Run a program by its path, in isolation from this process's environment variables for Python.

    Raises:
        RuntimeError: it failed; the last lines of what it said.
    """
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [str(python), "-I", "-W", "ignore", str(program), *arguments], capture_output=True, text=True, check=False, env=quiet
    )  # fmt: skip
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise RuntimeError("\n".join(said[-_SHOWN:]) or f"it ended with {done.returncode}")

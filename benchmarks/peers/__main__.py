"""Make the peers' environments. See `benchmarks/peers/__init__.py`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.peers import ALONE, ENVIRONMENTS, FOLDER, TORCH, python_of


def make(name: str) -> None:
    """Make one environment; none is left where its installation fails."""
    folder = FOLDER / name
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        with tempfile.TemporaryDirectory() as scratch:
            constraint = Path(scratch) / "constraint.txt"
            constraint.write_text(TORCH + "\n")
            install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", constraint]
            subprocess.run([*install, TORCH], check=True)
            subprocess.run([*install, *ENVIRONMENTS[name]], check=True)
            if name in ALONE:
                subprocess.run([*install, "--no-deps", *ALONE[name]], check=True)
    except (subprocess.CalledProcessError, KeyboardInterrupt):
        shutil.rmtree(folder, ignore_errors=True)
        raise


def main() -> None:
    """The environments named on the command line, or all."""
    for name in sys.argv[1:] or ENVIRONMENTS:
        if name not in ENVIRONMENTS:
            sys.exit(f"there is no environment {name}; there are {', '.join(ENVIRONMENTS)}")
        if python_of(name) is None:
            make(name)
        print(f"{name}: {FOLDER.name}/{name}", flush=True)


if __name__ == "__main__":
    main()

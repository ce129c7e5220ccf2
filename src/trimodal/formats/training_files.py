"""What `train` told of a model, carried over into the artifact, where the report shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from trimodal.models.files import TRAINING

LINES_KEPT = 2000
_EVALUATED = '"eval_'


def carry_training_files(source: Path, folder: Path) -> None:
    """Copy the record of a training, and its curves, of which a long run's are thinned: every evaluation stays, and of the steps every
    so many, so that an artifact is not larger by them than by its weights."""
    record, curves = TRAINING
    if (source / record).is_file():
        shutil.copyfile(source / record, folder / record)
    if (source / curves).is_file():
        (folder / curves).write_text("".join(_thin_lines((source / curves).read_text(encoding="utf-8"))), encoding="utf-8")


def _thin_lines(text: str) -> list[str]:
    lines = [line for line in text.splitlines(keepends=True) if _is_whole(line)]
    every = max(1, len(lines) // LINES_KEPT)
    last = len(lines) - 1
    return [line for number, line in enumerate(lines) if number % every == 0 or number == last or _EVALUATED in line]


def _is_whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False

"""A data file beside the files that it names."""

from __future__ import annotations

import json
from pathlib import Path

FULL = {
    "image": "seven.png", "audio": "three.wav", "text": "add them", "label": 10,
    "labels": {"image": 7, "audio": 3}, "target": "ten", "group": "w1", "split": "test",
}  # fmt: skip


def write(folder: Path, *lines: object) -> Path:
    file = folder / "data.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file

"""Lines of a class, a tab and a text, opened as `--data tally:FILE`."""

from __future__ import annotations

from pathlib import Path


def open_lines(address: str) -> list[dict[str, object]]:
    """A row for each line of the file at `address`; every fourth is held out."""
    lines = Path(address).read_text(encoding="utf-8").splitlines()
    return [
        {"label": int(label), "text": text, "split": "train" if number % 4 else "test"}
        for number, (label, _, text) in enumerate(line.partition("\t") for line in lines if line)
    ]

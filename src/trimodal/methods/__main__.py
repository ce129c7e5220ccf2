"""Write the methods' descriptions where they can be read without importing torch: `python -m trimodal.methods`.

Run it after a change to a method's name, paper, idea or options; a test compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimodal.catalogue import FILE
from trimodal.methods import METHODS
from trimodal.methods.description import describe_method
from trimodal.writing import write_text_atomically


def build_catalogue_rows() -> list[dict[str, Any]]:
    """A row per method: name, kind, paper, idea, works_on, options."""
    return [describe_method(method) for method in METHODS]


def write_catalogue() -> None:
    """Write `catalogue.json` anew."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in build_catalogue_rows())
    write_text_atomically(Path(__file__).parents[1] / FILE, f"[\n{lines}\n]\n")


if __name__ == "__main__":
    write_catalogue()

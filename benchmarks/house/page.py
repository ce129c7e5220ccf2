"""What docs/architecture.md is given between its markers: the counts, and the picture of the rooms, drawn from the import contract."""

from __future__ import annotations

import re

from benchmarks.house.source import ROOT, list_layers

PAGE = ROOT / "docs" / "architecture.md"


def draw_rooms() -> str:
    """A Mermaid picture: a box per layer of the contract, highest first, with its rooms; arrows point down only."""
    boxes = [f'    row{number}["{" · ".join(rooms)}"]' for number, rooms in enumerate(list_layers())]
    arrows = [f"    row{number} --> row{number + 1}" for number in range(len(boxes) - 1)]
    return "\n".join(["```mermaid", "flowchart TB", *boxes, *arrows, "```"])


def replace_between(text: str, mark: str, inner: str) -> str:
    """`text` with `inner` between the comments `mark: begin` and `mark: end`.

    Raises:
        ValueError: the comments are not there.
    """
    found = re.subn(rf"(<!-- {mark}: begin[^>]*-->\n).*?(<!-- {mark}: end -->)", lambda m: f"{m[1]}{inner}\n{m[2]}", text, flags=re.DOTALL)
    if found[1] != 1:
        raise ValueError(f"{PAGE} has no <!-- {mark}: begin --> … <!-- {mark}: end -->")
    return found[0]


def read_between(text: str, mark: str) -> str:
    """What stands between the comments `mark: begin` and `mark: end`, empty if they are not there."""
    found = re.search(rf"<!-- {mark}: begin[^>]*-->\n(.*?)\n?<!-- {mark}: end -->", text, re.DOTALL)
    return found[1] if found else ""


def write_page(counts: str) -> None:
    """Put the counts and the picture into the page."""
    text = PAGE.read_text(encoding="utf-8")
    text = replace_between(text, "rooms", draw_rooms())
    PAGE.write_text(replace_between(text, "counts", counts), encoding="utf-8")

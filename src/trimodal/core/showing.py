"""How the nouns look in a notebook: a line, and a table in HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_ROWS = 12


def format_size(count: float) -> str:
    """`1.56 MB` for 1_560_000 bytes."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} bytes"


def html_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A small table under `title`; of many rows the first dozen, and how many more there are."""
    every = list(rows)
    more = f"<p>and {len(every) - _ROWS:,} more</p>" if len(every) > _ROWS else ""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in every[:_ROWS])
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if every else ""
    return f"<p><b>{escape(title)}</b></p>{table}{more}"

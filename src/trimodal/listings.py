"""Tables for the terminal that need no torch: methods, the machine, the places of an edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trimodal.machine import Environment
from trimodal.shorthand import short_name_of

CERTAINTY_WORDS = {"exact": "", "at most": "at most ", "estimate": "about "}


def make_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A plain table, its cells taken as they are."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def make_method_row(row: Any) -> tuple[str, ...]:
    """A method of the catalogue: its name, the field's short name, the idea, what it works on."""
    defaults = {option["name"]: option["default"] for option in row["options"]}
    return row["name"], short_name_of(row["name"], defaults), row["idea"], row["works_on"]


def make_method_table(method: Any) -> Table:
    """The options of a method of the catalogue."""
    rows = [
        (o["name"], "required" if o["required"] else str(o["default"]), o["expected"] or o["type"], o["help"])
        for o in method["options"]
    ]
    table = make_table(("option", "default", "allowed", "meaning"), rows)
    _, short, idea, works_on = make_method_row(method)
    table.title = Text(f"{method['name']}: {idea}\n{method['paper']}\nby default: {short}\nworks on: {works_on}")
    table.title_justify = "left"
    return table


def list_machine_rows(found: Environment) -> list[tuple[str, str]]:
    """What the machine has, in words."""
    memory = "unknown" if found.memory_bytes is None else f"{found.memory_bytes / 1e9:.1f} GB"
    return [
        *found.versions.items(),
        ("python", found.python),
        ("system", found.system),
        ("processor", f"{found.processor}, {found.cores} to use, {found.threads} threads"),
        ("vector instructions", ", ".join(found.vectors) or "none of those that matter"),
        ("free memory", memory),
        ("free disk", f"{found.disk_bytes / 1e9:.1f} GB at {found.disk}"),
    ]


def make_edit_table(name: str, config: dict[str, Any], edit: Any) -> Group:
    """The places of a step, then its settings, then what it leaves alone, by reason."""
    rows = [
        (place.name, f"{place.bytes_before:,}", CERTAINTY_WORDS[place.certainty] + f"{place.bytes_after:,}")
        for place in edit.places
    ]
    table = make_table((name, "bytes before", "bytes after"), rows)
    settings = ", ".join(f"{key} {value}" for key, value in config.items())
    told = [f"{short_name_of(name, config)}: {settings}".removeprefix(": ")]
    reasons = dict.fromkeys(alone.reason for alone in edit.left_alone)
    told += [f"left alone ({why}): {', '.join(a.name for a in edit.left_alone if a.reason == why)}" for why in reasons]
    return Group(table, *map(Text, filter(None, told)))

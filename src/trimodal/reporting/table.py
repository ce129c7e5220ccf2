"""Tables for the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trimodal.core import Plan, Verdict
from trimodal.inventory import Inventory
from trimodal.reporting import wording

_STYLES = {"good": "bold green", "careful": "bold yellow", "bad": "bold red"}


def summary(verdict: Verdict, plan: Plan) -> Group:
    """What `compress` and `verify` print at the end: headline, sizes, metrics, and what a reader must know.

    Print it with a `rich.console.Console`.
    """
    state, badge, remarks = wording.standing(verdict, plan)
    parts: list[Text | Table] = [Text(wording.headline(verdict), style="bold"), Text(), _sizes(verdict)]
    if verdict.packing is not None:
        parts.append(Text(wording.packing(verdict.packing)))
    if verdict.stock is not None:
        parts.append(Text(wording.stock(verdict.stock)))
    if speed := wording.speed(plan):
        parts.append(Text(speed))
    if verdict.metrics:
        parts += [Text(), _metrics(verdict)]
    parts += [Text(), Text(badge[:1].upper() + badge[1:], style=_STYLES[state])]
    parts += [Text(f"  {remark}") for remark in remarks]
    return Group(*parts)


def _table(*columns: str) -> Table:
    """A table without lines: the first column is text, the others are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=bool(index))
    return table


def _row(table: Table, *cells: str) -> None:
    """Add cells as they are: names come from files and must not be read as markup."""
    table.add_row(*(Text(cell) for cell in cells))


def _sizes(verdict: Verdict) -> Table:
    table = _table("size", "original", "compressed", "change")
    size = verdict.size
    rows = [
        ("all files", size.before_bytes, size.after_bytes),
        ("weights", size.weights_before_bytes, size.weights_after_bytes),
        *((f"tower {tower.tower}", tower.bytes_before, tower.bytes_after) for tower in verdict.towers),
    ]
    for name, before, after in rows:
        _row(table, name, wording.size(before), wording.size(after), wording.ratio(before, after))
    return table


def _metrics(verdict: Verdict) -> Table:
    table = _table("measured", "modality", "n", "original", "compressed", "drop", "95 % interval")
    for metric in verdict.metrics:
        _row(
            table,
            metric.name,
            metric.modality,
            f"{metric.samples:,}",
            wording.score(metric, metric.before),
            wording.score(metric, metric.after),
            wording.drop(metric, metric.drop),
            wording.interval(metric),
        )
    return table


def inventory_table(inventory: Inventory) -> Group:
    """What `inspect` prints: a row per tower, one for what belongs to none, and the sum."""
    table = _table("tower", "blocks", "sites", "parameters", "bytes", "share", "operations")
    for tower in inventory.towers:
        counts = f"{tower.blocks:,}", f"{tower.sites:,}", f"{tower.parameters:,}", wording.size(tower.bytes)
        _row(table, tower.name, *counts, f"{tower.share:.0%}", _operations(tower.operations))
    outside = [row for row in inventory.other if not row.tower]
    if outside:
        parameters, held = sum(row.parameters for row in outside), sum(row.bytes for row in outside)
        share = f"{held / inventory.bytes:.0%}" if inventory.bytes else ""
        _row(table, "in no tower", "", "", f"{parameters:,}", wording.size(held), share, "")
    table.add_section()
    _row(
        table,
        "in all",
        f"{sum(tower.blocks for tower in inventory.towers):,}",
        f"{len(inventory.sites):,}",
        f"{inventory.parameters:,}",
        wording.size(inventory.bytes),
        "",
        _operations(inventory.operations),
    )
    parts: list[Text | Table] = [Text(f"{inventory.name} ({inventory.family})", style="bold"), Text(), table]
    return Group(*parts, *(Text(line, style="dim") for line in _inventory_notes(inventory)))


def _operations(count: int | None) -> str:
    return "" if count is None else wording.count(count)


def _inventory_notes(inventory: Inventory) -> list[str]:
    notes = []
    if inventory.operations is None:
        notes.append(f"operations were not counted: {inventory.operations_note}")
    else:
        shapes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in inventory.input_shapes.items())
        notes.append(f"operations: multiply-accumulates of one forward for one sample; inputs {shapes}")
    if inventory.buffer_bytes:
        notes.append(f"further tensors without parameters: {wording.size(inventory.buffer_bytes)}")
    return notes

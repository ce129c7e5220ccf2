"""Tables for the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trimodal.core import Plan, Verdict
from trimodal.inventory import Inventory
from trimodal.reporting import standing, wording
from trimodal.reporting.advice import Names, next_steps

_STYLES = {"good": "bold green", "careful": "bold yellow", "bad": "bold red", "open": "bold"}


def summary(verdict: Verdict, plan: Plan, names: Names | None = None) -> Group:
    """What `compress` and `verify` print at the end: headline, sizes, metrics, the two verdicts, what a reader must know,
    and what could be tried next. `names` are those that the user typed.

    Print it with a `rich.console.Console` and `crop=False`, which leaves commands whole that are longer than a line.
    """
    parts: list[Text | Table] = [Text(wording.headline(verdict), style="bold"), Text(), _sizes(verdict)]
    parts += [Text(line) for line in _facts(verdict, plan)]
    if verdict.metrics:
        parts += [Text(), _metrics(verdict)]
    parts.append(Text())
    for found in (standing.integrity(verdict), standing.quality(verdict)):
        parts.append(Text.assemble(f"{found.name}: ", (found.badge, _STYLES[found.state])))
        parts += [Text(f"  {remark}") for remark in found.remarks]
    parts += [Text(f"caution: {caution}", style=_STYLES["careful"]) for caution in standing.cautions(verdict, plan)]
    parts += [Text(), Text("what next", style="dim"), *_next(verdict, plan, names or Names.in_plan(plan, "OUT"))]
    return Group(*parts)


def _facts(verdict: Verdict, plan: Plan) -> list[str]:
    """One line each about how it is stored, what was left, who can load it, and time."""
    untouched = verdict.untouched or plan.untouched
    return [
        *([wording.packing(verdict.packing)] if verdict.packing else []),
        *([standing.left(untouched)] if untouched else []),
        *([wording.stock(verdict.stock)] if verdict.stock else []),
        *([speed] if (speed := wording.speed(plan)) else []),
        *([wording.latency(verdict.latency)] if verdict.latency else []),
    ]


def _next(verdict: Verdict, plan: Plan, names: Names) -> list[Text]:
    """Two lines per step. A command stays on one line however narrow the terminal is, so that it can be copied."""
    lines = []
    for step in next_steps(plan, verdict, names):
        lines.append(Text(f"{step.goal}: {step.why}"))
        lines.append(Text(f"    {step.command}", no_wrap=True, overflow="ignore"))
    return lines


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
    table = _table("tower", "blocks", "sites", "parameters", "bytes", "share", "in places", "operations")
    for tower in inventory.towers:
        counts = f"{tower.blocks:,}", f"{tower.sites:,}", f"{tower.parameters:,}", wording.size(tower.bytes)
        homeless = sum(row.bytes for row in inventory.other if row.tower == tower.name)
        placed = wording.share(tower.bytes - homeless, tower.bytes)
        _row(table, tower.name, *counts, f"{tower.share:.0%}", placed, _operations(tower.operations))
    outside = [row for row in inventory.other if not row.tower]
    if outside:
        parameters, held = sum(row.parameters for row in outside), sum(row.bytes for row in outside)
        share = f"{held / inventory.bytes:.0%}" if inventory.bytes else ""
        _row(table, "in no tower", "", "", f"{parameters:,}", wording.size(held), share, wording.share(0, held), "")
    table.add_section()
    _row(
        table,
        "in all",
        f"{sum(tower.blocks for tower in inventory.towers):,}",
        f"{len(inventory.sites):,}",
        f"{inventory.parameters:,}",
        wording.size(inventory.bytes),
        "",
        wording.share(inventory.bytes - sum(row.bytes for row in inventory.other), inventory.bytes),
        _operations(inventory.operations),
    )
    parts: list[Text | Table] = [Text(f"{inventory.name} ({inventory.family})", style="bold"), Text(), table]
    if inventory.in_no_place.share > standing.MUCH:
        parts.append(Text(f"caution: {standing.homeless(inventory.in_no_place)}", style=_STYLES["careful"]))
    return Group(*parts, *(Text(line, style="dim") for line in _inventory_notes(inventory)))


def left_by_plan(plan: Plan) -> Group:
    """What `plan` prints beside its tables: what the plan leaves as it is, with a caution where that is much."""
    if plan.untouched is None:
        return Group()
    said = standing.much_left(plan.untouched)
    return Group(Text(standing.left(plan.untouched)), *(Text(f"caution: {s}", style=_STYLES["careful"]) for s in said))


def _operations(count: int | None) -> str:
    return "" if count is None else wording.count(count)


def _inventory_notes(inventory: Inventory) -> list[str]:
    notes = []
    if inventory.operations is None:
        notes.append(f"operations were not counted: {inventory.operations_note}")
    else:
        shapes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in inventory.input_shapes.items())
        notes.append(f"operations: multiply-accumulates of one forward for one sample; inputs {shapes}")
    if inventory.in_no_place.alike:
        homeless = inventory.in_no_place
        share = wording.share(homeless.bytes, homeless.of_bytes)
        notes.append(f"in no place, {share} of the bytes ({wording.size(homeless.bytes)}): {standing.names(homeless)}")
    if inventory.buffer_bytes:
        notes.append(f"further tensors without parameters: {wording.size(inventory.buffer_bytes)}")
    return notes

"""Tables for the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trimodal.core import Plan, Verdict
from trimodal.inventory import Inventory
from trimodal.reporting import standing, wording
from trimodal.reporting.advice import CommandNames, suggest_next_steps

_STYLES = {"good": "bold green", "careful": "bold yellow", "bad": "bold red", "open": "bold"}


def make_summary(verdict: Verdict, plan: Plan, names: CommandNames | None = None) -> Group:
    """What `compress` and `verify` print at the end: headline, sizes, metrics, the two verdicts, what a reader must know,
    and what could be tried next. `names` are those that the user typed.

    Print it with a `rich.console.Console` and `crop=False`, which leaves commands whole that are longer than a line.
    """
    parts: list[Text | Table] = [Text(wording.make_headline(verdict), style="bold"), Text(), _make_size_table(verdict)]
    parts += [Text(line) for line in _list_facts(verdict, plan)]
    if verdict.metrics:
        parts += [Text(), _make_metric_table(verdict)]
    parts.append(Text())
    for found in (standing.judge_integrity(verdict), standing.judge_quality(verdict)):
        parts.append(Text.assemble(f"{found.name}: ", (found.badge, _STYLES[found.state])))
        parts += [Text(f"  {remark}") for remark in found.remarks]
    parts += [Text(f"caution: {caution}", style=_STYLES["careful"]) for caution in standing.list_cautions(verdict, plan)]
    parts += [Text(), Text("what next", style="dim"), *_list_next_steps(verdict, plan, names or CommandNames.from_plan(plan, "OUT"))]
    return Group(*parts)


def _list_facts(verdict: Verdict, plan: Plan) -> list[str]:
    """One line each about how it is stored, what was left, who can load it, and time."""
    untouched = verdict.untouched or plan.untouched
    return [
        *([wording.describe_packing(verdict.packing)] if verdict.packing else []),
        *([standing.describe_untouched(untouched)] if untouched else []),
        *([wording.describe_stock(verdict.stock)] if verdict.stock else []),
        *([speed] if (speed := wording.describe_speed(plan)) else []),
        *([wording.describe_latency(verdict.latency)] if verdict.latency else []),
    ]


def _list_next_steps(verdict: Verdict, plan: Plan, names: CommandNames) -> list[Text]:
    """Two lines per step. A command stays on one line however narrow the terminal is, so that it can be copied."""
    lines = []
    for step in suggest_next_steps(plan, verdict, names):
        lines.append(Text(f"{step.goal}: {step.why}"))
        lines.append(Text(f"    {step.command}", no_wrap=True, overflow="ignore"))
    return lines


def _make_table(*columns: str) -> Table:
    """A table without lines: the first column is text, the others are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=bool(index))
    return table


def _add_row_(table: Table, *cells: str) -> None:
    """Add cells as they are: names come from files and must not be read as markup."""
    table.add_row(*(Text(cell) for cell in cells))


def _make_size_table(verdict: Verdict) -> Table:
    table = _make_table("size", "original", "compressed", "change")
    size = verdict.size
    rows = [
        ("all files", size.before_bytes, size.after_bytes),
        ("weights", size.weights_before_bytes, size.weights_after_bytes),
        *((f"tower {tower.tower}", tower.bytes_before, tower.bytes_after) for tower in verdict.towers),
    ]
    for name, before, after in rows:
        _add_row_(table, name, wording.format_bytes(before), wording.format_bytes(after), wording.format_ratio(before, after))
    return table


def _make_metric_table(verdict: Verdict) -> Table:
    table = _make_table("measured", "modality", "n", "original", "compressed", "drop", "95 % interval")
    for metric in verdict.metrics:
        _add_row_(
            table,
            metric.name,
            metric.modality,
            f"{metric.samples:,}",
            wording.format_score(metric, metric.before),
            wording.format_score(metric, metric.after),
            wording.format_drop(metric, metric.drop),
            wording.format_interval(metric),
        )
    return table


def make_inventory_table(inventory: Inventory) -> Group:
    """What `inspect` prints: a row per tower, one for what belongs to none, and the sum."""
    table = _make_table("tower", "blocks", "sites", "parameters", "bytes", "share", "in places", "MACs")
    for tower in inventory.towers:
        counts = f"{tower.blocks:,}", f"{tower.sites:,}", f"{tower.parameters:,}", wording.format_bytes(tower.bytes)
        homeless = sum(row.bytes for row in inventory.other if row.tower == tower.name)
        placed = wording.format_share(tower.bytes - homeless, tower.bytes)
        _add_row_(table, tower.name, *counts, f"{tower.share:.0%}", placed, _format_macs(tower.macs))
    outside = [row for row in inventory.other if not row.tower]
    if outside:
        parameters, held = sum(row.parameters for row in outside), sum(row.bytes for row in outside)
        share = f"{held / inventory.bytes:.0%}" if inventory.bytes else ""
        _add_row_(table, "in no tower", "", "", f"{parameters:,}", wording.format_bytes(held), share, wording.format_share(0, held), "")
    table.add_section()
    _add_row_(
        table,
        "in all",
        f"{sum(tower.blocks for tower in inventory.towers):,}",
        f"{len(inventory.sites):,}",
        f"{inventory.parameters:,}",
        wording.format_bytes(inventory.bytes),
        "",
        wording.format_share(inventory.bytes - sum(row.bytes for row in inventory.other), inventory.bytes),
        _format_macs(inventory.macs),
    )
    parts: list[Text | Table] = [Text(f"{inventory.name} ({inventory.family})", style="bold"), Text(), table]
    if inventory.in_no_place.share > standing.MUCH:
        parts.append(Text(f"caution: {standing.describe_unplaced(inventory.in_no_place)}", style=_STYLES["careful"]))
    return Group(*parts, *(Text(line, style="dim") for line in _list_inventory_notes(inventory)))


def summarize_untouched(plan: Plan) -> Group:
    """What `plan` prints beside its tables: what the plan leaves as it is, with a caution where that is much."""
    if plan.untouched is None:
        return Group()
    said = standing.warn_of_much_untouched(plan.untouched)
    return Group(Text(standing.describe_untouched(plan.untouched)), *(Text(f"caution: {s}", style=_STYLES["careful"]) for s in said))


def _format_macs(count: int | None) -> str:
    return "" if count is None else wording.format_count(count)


def _list_inventory_notes(inventory: Inventory) -> list[str]:
    notes = []
    if inventory.macs is None:
        notes.append(f"MACs were not counted: {inventory.macs_note}")
    else:
        shapes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in inventory.input_shapes.items())
        notes.append(f"MACs: multiply-accumulates of one forward for one sample; inputs {shapes}")
    if inventory.in_no_place.alike:
        homeless = inventory.in_no_place
        share = wording.format_share(homeless.bytes, homeless.of_bytes)
        notes.append(f"in no place, {share} of the bytes ({wording.format_bytes(homeless.bytes)}): {standing.list_largest_names(homeless)}")
    if inventory.buffer_bytes:
        notes.append(f"further tensors without parameters: {wording.format_bytes(inventory.buffer_bytes)}")
    return notes


def describe_needs(planned: Plan) -> str:
    """What carrying out a plan will take, in one line."""
    found = planned.estimate
    if found is None:
        return ""
    memory, disk = wording.format_bytes(found.memory_bytes), wording.format_bytes(found.disk_bytes)
    return f"needs about {wording.format_seconds(found.total_seconds)}, {memory} of memory, {disk} on disk"

"""What was measured, as tables for the screen."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table

from trimodal.benching.bench import Bench, Row
from trimodal.benching.choice import Choice

_COLUMNS = ("variant", "ms", "quartiles", "times as fast", "cosine", "MB", "load s", "peak MB", "int nodes")


def make_bench_table(found: Bench, choice: Choice | None = None) -> Group:
    """A table for each component, batch and length, with the machine above and what the numbers are worth below."""
    tables: dict[str, list[Row]] = {}
    for name in found.noise:
        tables[name] = [row for row in found.rows if _table_of(row) == name]
    parts: list[object] = [found.conditions.describe()]
    for name, rows in tables.items():
        title = f"{name} (times as fast as {found.reference}, cosine to its outputs)"
        parts += ["", title, _make_table(rows), _describe_noise(rows, found.noise[name])]
    if choice is not None:
        parts += ["", choice.describe()]
    return Group(*parts)  # type: ignore[arg-type]


def _table_of(row: Row) -> str:
    return f"{row.component}, batch {row.batch}" + (f", {row.tokens} tokens" if row.tokens is not None else "")


def _make_table(rows: list[Row]) -> Table:
    shown = [_show_row(row) for row in rows]
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(_COLUMNS):  # numbers are never broken: a table is wider than a narrow terminal rather than unreadable
        table.add_column(column, no_wrap=True, min_width=max(len(column), *(len(cells[place]) for cells in shown)))
    for cells in shown:
        table.add_row(*cells)
    return table


def _show_row(row: Row) -> tuple[str, ...]:
    timing, facts = row.timing, row.facts
    nodes = "" if facts is None or facts.integer_nodes is None else str(facts.integer_nodes)
    return (
        row.variant, f"{timing.median * 1e3:.2f}{' (noisy)' if timing.noisy else ''}", f"{timing.low * 1e3:.2f} to {timing.high * 1e3:.2f}",
        "not told apart" if row.ratio is None else f"{row.ratio:.2f}", show_cosines(row.cosines), f"{row.disk_bytes / 1e6:.2f}",
        "" if facts is None else f"{facts.load_seconds:.2f}", "" if facts is None else f"{facts.peak_bytes / 1e6:.0f}", nodes,
    )  # fmt: skip


def show_cosines(cosines: dict[str, float | None]) -> str:
    """The lowest of the outputs' cosines, and which it is where there are several."""
    known = {name: cosine for name, cosine in cosines.items() if cosine is not None}
    if not known:
        return "other shapes" if cosines else ""
    lowest = min(known, key=lambda name: known[name])
    return f"{known[lowest]:.5f}" + (f" ({lowest})" if len(known) > 1 else "")


def _describe_noise(rows: list[Row], noise: float) -> str:
    said = f"noise: the first row, timed twice, differs from itself by {noise:.1%}; "
    hidden = [row.variant for row in rows if row.ratio is None]
    if not hidden:
        return said + f"all differences are above twice of it ({2 * noise:.1%})"
    return said + f"what differs from it by less than twice that ({2 * noise:.1%}) is not shown as a speed-up: {'; '.join(hidden)}"

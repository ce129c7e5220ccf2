"""Pass lines: fixed before a benchmark runs, printed after its table."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class PassLine:
    """`measured` must be at least (`least`) or at most (`most`) the bound."""

    name: str
    measured: float
    least: float | None = None
    most: float | None = None

    @property
    def passed(self) -> bool:
        low = self.least is None or self.measured >= self.least
        return low and (self.most is None or self.measured <= self.most)

    def __str__(self) -> str:
        bound = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        return f"{'PASS' if self.passed else 'FAIL'} {self.name}: {self.measured:.6g} ({bound})"


def finish(lines: list[PassLine]) -> None:
    """Print every line and exit with 1 if one failed."""
    for line in lines:
        print(line)
    sys.exit(0 if all(line.passed for line in lines) else 1)


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table, the same on the terminal and in docs/."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(columns), rule, *map(line, rows)])

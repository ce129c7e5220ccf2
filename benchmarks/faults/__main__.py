"""Try every entry (or those whose numbers are given), print a line for each, and exit with 1 if one is wrong.

    python -m benchmarks.faults [NUMBER …]
"""

from __future__ import annotations

import pkgutil
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from benchmarks import faults
from benchmarks.faults.trying import Wrong

Entry = Callable[[Path], str]


def entries() -> dict[str, Entry]:
    """All entries by number, in order."""
    found: dict[str, Entry] = {}
    for module in pkgutil.iter_modules(faults.__path__):
        found.update(getattr(import_module(f"{faults.__name__}.{module.name}"), "ENTRIES", {}) if module.name != "__main__" else {})
    return dict(sorted(found.items(), key=lambda item: [int(part) for part in item[0].split(".")]))


def came_of(entry: Entry) -> tuple[bool, str]:
    """Whether an entry came out right, and what came."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return True, entry(Path(folder))
        except Wrong as wrong:
            return False, str(wrong)


def main() -> None:
    """Print a line for each entry."""
    wanted, every = sys.argv[1:], entries()
    failed = 0
    for number in wanted or every:
        right, what = came_of(every[number])
        failed += not right
        print(f"{'PASS' if right else 'FAIL'} {number} {every[number].__name__}: {what}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

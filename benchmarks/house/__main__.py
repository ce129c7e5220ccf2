"""The house counted: sizes, docstrings, borders, and what a new thing costs.

`python -m benchmarks.house` prints the counts and their pass lines; `--list shapes` (or another share or border) names who falls
short; `--write` puts the counts and the picture of the rooms into docs/architecture.md.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.house import borders, docstrings
from benchmarks.house.costs import THINGS, NewThing, count_cost, list_missing_files
from benchmarks.house.page import write_page
from benchmarks.house.source import ROOT, list_functions, list_rooms, read_source
from benchmarks.passlines import PassLine, finish, table

SHARES: dict[str, tuple[str, Callable[[], docstrings.Told], float]] = {
    "shapes": ("public functions with tensors say their shapes", docstrings.list_shapes, 95),
    "raises": ("public functions that raise say so", docstrings.list_raises, 95),
    "sources": ("methods name their source", docstrings.list_sources, 95),
    "docstrings": ("files, public classes and functions have a docstring", docstrings.list_docstrings, 100),
    "units": ("fields that hold a number say of what", docstrings.list_units, 95),
}
BORDERS: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "edit-tests": ("tests on an edit's kind outside edits/", borders.list_edit_tests),
    "method-kinds": ("tests on a method's kind in planning and compression", borders.list_method_kind_tests),
    "method-imports": ("imports of one method outside methods/", borders.list_method_imports),
    "inner-imports": ("imports inside functions, but for optional packages", borders.list_inner_imports),
    "uplinks": ("imports that point up", borders.list_uplinks),
    "lists": ("files that docs/architecture.md names and that are not there", list_missing_files),
}
UNJUDGED = {"method-kinds"}  # a rule for users may speak of a kind: `gradual` is for what prunes
MOST_ONE_WORD, MEDIAN_LINES, LONGEST_FUNCTION, LONGEST_FILE = 20, 8, 60, 420


def main() -> None:
    """Print the counts and the pass lines, or a list."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=__doc__.splitlines()[0])
    parser.add_argument("--list", choices=[*SHARES, *BORDERS, "one-word", "long"], help="name those that fall short")
    parser.add_argument("--write", action="store_true", help="put the counts into docs/architecture.md")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(list_offenders(asked.list)))
        return
    rows, lines = count_house()
    if asked.write:
        write_page(table(("what", "count"), rows))
    print(table(("what", "count"), rows))
    finish(lines)


def list_offenders(name: str) -> list[str]:
    """Who falls short of the line called `name`, in order of files."""
    if name in SHARES:
        return SHARES[name][1]()[1]
    if name in BORDERS:
        return BORDERS[name][1]()
    if name == "one-word":
        return _list_one_word()[1]
    long = [f"{file.name}: {file.lines} lines" for file in read_source() if file.lines > LONGEST_FILE]
    return long + [f"{one}: {one.lines} lines" for one in list_functions() if one.lines > LONGEST_FUNCTION]


def count_house() -> tuple[list[tuple[str, str]], list[PassLine]]:
    """The rows of the table, and the pass lines."""
    rows, lines = _count_sizes()
    for text, count, bound in SHARES.values():
        found, short = count()
        share = 100 * (1 - len(short) / len(found)) if found else 100.0
        rows.append((text, f"{len(found) - len(short):,} of {len(found):,} ({share:.1f} %)"))
        lines.append(PassLine(f"{text}, %", share, least=bound))
    found, short = _list_one_word()
    rows.append(("functions of a file with one-word names", f"{len(short):,} of {len(found):,} ({100 * len(short) / len(found):.1f} %)"))
    lines.append(PassLine("one-word names, %", 100 * len(short) / len(found), most=MOST_ONE_WORD))
    for key, (text, list_them) in BORDERS.items():
        number = len(list_them())
        rows.append((text, str(number)))
        lines += [] if key in UNJUDGED else [PassLine(text, number, most=0)]
    kept = _keeps_contracts()
    rows.append(("import contracts (lint-imports)", "kept" if kept else "broken"))
    lines.append(PassLine("import contracts kept", kept, least=1))
    for thing in THINGS:
        row, more = _count_thing(thing)
        rows.append(row)
        lines += more
    return rows, lines


def _count_sizes() -> tuple[list[tuple[str, str]], list[PassLine]]:
    files, functions = read_source(), list_functions()
    longest_file, longest = max(files, key=lambda file: file.lines), max(functions, key=lambda one: one.lines)
    median = statistics.median(one.lines for one in functions)
    middle = statistics.median(file.lines for file in files)
    rows = [
        ("rooms", str(len(list_rooms()))),
        ("files", f"{len(files):,} ({sum(file.lines for file in files):,} lines)"),
        ("lines of a file", f"median {middle:g}, longest {longest_file.lines} ({longest_file.name})"),
        ("functions and methods", f"{len(functions):,}"),
        ("lines of a function", f"median {median:g}, longest {longest.lines} ({longest.file.name}, {longest.name})"),
    ]
    lines = [
        PassLine("lines of a function, median", median, most=MEDIAN_LINES),
        PassLine("lines of a function, longest", longest.lines, most=LONGEST_FUNCTION),
        PassLine("lines of a file, longest", longest_file.lines, most=LONGEST_FILE),
    ]
    return rows, lines


def _list_one_word() -> tuple[list[str], list[str]]:
    """Functions that stand in a file itself, and those of them whose name is one word."""
    found = [one for one in list_functions() if "." not in one.name]
    return [str(one) for one in found], [str(one) for one in found if "_" not in one.name.strip("_")]


def _keeps_contracts() -> bool:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([str(program)], cwd=ROOT, capture_output=True, check=False).returncode == 0


def _count_thing(thing: NewThing) -> tuple[tuple[str, str], list[PassLine]]:
    cost = count_cost(thing)
    if cost is None:
        return (f"a new {thing.name}", "not known"), [PassLine(f"a new {thing.name}: how, is not known", 1, most=0)]
    others = f"{len(cost.changed)} changed" + (f" ({cost.lines} lines)" if cost.lines else "")
    lines = [PassLine(f"a new {thing.name}: files changed besides its own", len(cost.changed), most=thing.most_files)]
    if thing.most_lines is not None and cost.lines is not None:
        lines.append(PassLine(f"a new {thing.name}: lines changed in them", cost.lines, most=thing.most_lines))
    return (f"a new {thing.name}", f"{len(cost.new)} new, {others}; {cost.known_by}"), lines


if __name__ == "__main__":
    main()

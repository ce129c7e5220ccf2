"""What a new thing costs: counted in the commit that added the last one, else taken from the list in docs/architecture.md.

A commit counts if its message begins with `Add the pruning score` and the like. Only files under src/trimodal count, without the
catalogue and the recipe's schema, which commands write, and the miniatures, which tests are made of. Of lines those are counted that
were added; an import goes with the line that needs it.
"""

from __future__ import annotations

import ast
import re
import subprocess
from dataclasses import dataclass

from benchmarks.house.page import PAGE
from benchmarks.house.source import PACKAGE, ROOT

_NOT_COUNTED = ("src/trimodal/catalogue.json", "src/trimodal/recipe.schema.json", "src/trimodal/networks/tiny.py")


@dataclass(frozen=True)
class NewThing:
    """What can be added, the most files that it may touch besides its own, and the most lines in them (None: not bound)."""

    name: str
    most_files: int
    most_lines: int | None = 1


THINGS = (
    NewThing("pruning score", 1), NewThing("grid", 3, None), NewThing("method", 1), NewThing("edit", 2, None),
    NewThing("family", 1), NewThing("export format", 1), NewThing("data source", 1, None),
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Files under src/trimodal that the last thing of a kind added and changed, the lines changed, and how that is known."""

    new: tuple[str, ...]
    changed: tuple[str, ...]
    lines: int | None
    known_by: str


def count_cost(thing: NewThing) -> Cost | None:
    """From the last commit that added such a thing, else from the page; None if neither is there."""
    return _cost_of_commit(thing.name) or _cost_on_page(thing.name)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def _cost_of_commit(name: str) -> Cost | None:
    commit = _git("log", "-1", "--format=%h", f"--grep=^Add the {name}").strip()
    if not commit:
        return None
    new, changed, lines = [], [], 0
    for row in _git("show", "--format=", "--name-status", "--no-renames", commit).splitlines():
        kind, path = row.split("\t")
        if path.startswith("src/trimodal/") and path not in _NOT_COUNTED:
            (new if kind == "A" else changed).append(path.removeprefix("src/trimodal/"))
            lines += 0 if kind == "A" else _count_added_lines(commit, path)
    return Cost(tuple(new), tuple(changed), lines, f"commit {commit}")


def _count_added_lines(commit: str, path: str) -> int:
    """Lines that the commit added to a file, blank ones and imports left out."""
    text, diff = _git("show", f"{commit}:{path}"), _git("show", "--format=", "-U0", commit, "--", path)
    return count_lines_without_imports(text, diff, is_python=path.endswith(".py"))


def count_lines_without_imports(text: str, diff: str, is_python: bool = True) -> int:
    """Lines of `text` that `diff` added to it, blank ones left out, and all lines of an import, however it is wrapped."""
    imports = (node for node in ast.walk(ast.parse(text if is_python else "")) if isinstance(node, ast.Import | ast.ImportFrom))
    left_out = {number for node in imports for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    hunks = re.findall(r"^@@ \S+ \+(\d+)(?:,(\d+))? @@", diff, re.MULTILINE)
    added = {int(first) + i for first, count in hunks for i in range(int(count or 1))}
    lines = text.splitlines()
    return sum(bool(lines[number - 1].strip()) for number in added - left_out)


def _cost_on_page(name: str) -> Cost | None:
    """The list under `### A pruning score` and the like: `- new: …`, `- change: …`; what begins otherwise does not count."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    section = re.search(rf"^### An? {name}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    if section is None:
        return None
    new, changed = (re.findall(rf"^- {word}: `([^`]+)`", section[1], re.MULTILINE) for word in ("new", "change"))
    lines = sum(int(number) for number in re.findall(r"^- change: `[^`]+`, (\d+) line", section[1], re.MULTILINE))
    return Cost(tuple(new), tuple(changed), lines, "the page's list")


def list_missing_files() -> list[str]:
    """Files that a list on the page tells to change, and that are not there."""
    costs = {thing.name: _cost_on_page(thing.name) for thing in THINGS}
    missing = [f"no list for {name}" for name, cost in costs.items() if cost is None]
    return missing + [path for cost in costs.values() if cost for path in cost.changed if not (PACKAGE / path).exists()]

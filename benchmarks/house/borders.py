"""What may not stand outside its room: a test on an edit's kind, one method's name or import, an import inside a function."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

from benchmarks.house.source import list_layers, read_project, read_source

EDITS = frozenset({"cut", "treat", "merge", "drop", "share", "fold"})
_KINDS = frozenset({"prune", "quantize", "factorize", "share", "merge", "fold", "distill"})  # of methods
_GENERIC = frozenset({"planning", "compression"})
PLATFORM = frozenset({"fcntl", "resource", "msvcrt", "winreg"})  # there on some systems only
OWN_ENVIRONMENTS = frozenset({"litert_torch", "ai_edge_litert", "executorch"})  # each has a requirements-NAME.lock of its own
_IMPORT_NAMES = {"opentelemetry-api": "opentelemetry", "scikit-learn": "sklearn"}


def list_edit_tests() -> list[str]:
    """Tests on the kind of an edit by its name, outside edits/: comparisons, keys of a recorded step, cases."""
    return [
        f"{file.name}:{node.lineno} {ast.unparse(node)[:80]}"
        for file in read_source() if not file.name.startswith("edits/")
        for node in ast.walk(file.tree) if _tests_edit(node)
    ]  # fmt: skip


def _tests_edit(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare) and not _asks_a_method(node):
        return any(_names_edit(one) for one in (node.left, *node.comparators))
    if isinstance(node, ast.match_case):
        return any(isinstance(one, ast.MatchValue) and _names_edit(one.value) for one in ast.walk(node.pattern))
    if isinstance(node, ast.Subscript):
        return _names_edit(node.slice) and re.search(r"step|what|change|edit", ast.unparse(node.value)) is not None
    return False


def _asks_a_method(node: ast.Compare) -> bool:
    """Whether it is a method's kind or the sort of place it works on that is compared: `share`, `merge` and `fold` are such words too."""
    sides = (node.left, *node.comparators)
    return any(isinstance(side, ast.Attribute) and side.attr in ("kind", "on") for side in sides)


def list_method_kind_tests() -> list[str]:
    """Tests on a method's kind where no method is to be known: planning and compression."""
    return [
        f"{file.name}:{node.lineno} {ast.unparse(node)[:80]}"
        for file in read_source() if file.room in _GENERIC
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Compare) and _asks_a_method(node) and ".kind" in ast.unparse(node)
        and any(isinstance(one, ast.Constant) and one.value in _KINDS for one in ast.walk(node))
    ]  # fmt: skip


def _names_edit(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(map(_names_edit, node.elts))
    return isinstance(node, ast.Constant) and node.value in EDITS


def list_method_imports() -> list[str]:
    """Imports of one method's file, and calls for one method by its name, outside methods/."""
    return [
        f"{file.name}:{node.lineno} {ast.unparse(node)[:100]}"
        for file in read_source() if not file.name.startswith("methods/")
        for node in ast.walk(file.tree) if _asks_for_method(node)
    ]  # fmt: skip


def _asks_for_method(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "get_method" and bool(node.args) and isinstance(node.args[0], ast.Constant)
    return any(_method_folders().match(name) for name in _imported_names(node))


@cache
def _method_folders() -> re.Pattern[str]:
    kinds = {file.name.split("/")[1] for file in read_source() if re.match(r"methods/\w+/", file.name)}
    return re.compile(rf"trimodal\.methods\.({'|'.join(sorted(kinds))})\b")


def _imported_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (one.name for one in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{one.name}" for one in node.names)


def list_inner_imports() -> list[str]:
    """Imports inside functions, but for packages that need not be there; runtimes do without torch."""
    allowed = list_optional_packages() | PLATFORM | OWN_ENVIRONMENTS
    return [
        f"{function} {ast.unparse(node)[:80]}"
        for file in read_source() for function in file.functions if not function.nested
        for node in ast.walk(function.node) if isinstance(node, ast.Import | ast.ImportFrom)
        if {name.split(".")[0] for name in _imported_names(node)} - allowed - ({"torch"} if file.name.startswith("runtimes/") else set())
    ]  # fmt: skip


def list_optional_packages() -> frozenset[str]:
    """The packages of the extras, by the names under which they are imported."""
    extras: dict[str, list[str]] = read_project()["project"]["optional-dependencies"]  # type: ignore[index]
    names = {re.split(r"[\[<>=]", one)[0] for extra, asked in extras.items() if extra != "dev" for one in asked}
    return frozenset(_IMPORT_NAMES.get(name, name) for name in names - {"trimodal"})


def list_uplinks() -> list[str]:
    """Imports that point up against the contract's layers, or between rooms of one row. `lint-imports` looks at chains too."""
    height = {room: -number for number, row in enumerate(list_layers()) for room in row}
    found = []
    for file in read_source():
        for node in ast.walk(file.tree):
            for name in _imported_names(node):
                room = name.split(".")[1] if name.startswith("trimodal.") else ""
                here = file.room
                if room in height and here in height and room != here and height[room] >= height[here]:
                    found.append(f"{file.name}:{node.lineno} {ast.unparse(node)[:80]}")  # type: ignore[attr-defined]
    return list(dict.fromkeys(found))

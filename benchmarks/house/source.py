"""The source as trees: every file of src/trimodal with its functions, classes and imports."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "trimodal"
Def = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """A function or method: where it stands, its tree, and the class that it belongs to."""

    file: SourceFile
    node: Def
    name: str
    owner: ast.ClassDef | None = None
    nested: bool = False

    @property
    def lines(self) -> int:
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def public(self) -> bool:
        """Whether others may call it: no part of its name has a leading underscore, and it stands in no function."""
        return not self.nested and not any(part.startswith("_") for part in self.name.split("."))

    @property
    def decorators(self) -> set[str]:
        return {ast.unparse(one).split("(")[0].split(".")[-1] for one in self.node.decorator_list}

    @property
    def annotations(self) -> str:
        args = self.node.args
        given = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
        found = [one.annotation for one in given] + [self.node.returns]
        return " ".join(ast.unparse(one) for one in found if one is not None)

    def __str__(self) -> str:
        return f"{self.file.name}:{self.node.lineno} {self.name}"


@dataclass(frozen=True)
class SourceFile:
    """One file: its path from src/trimodal, its text and tree."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def room(self) -> str:
        """The package below trimodal that it belongs to, or its own name where it stands alone."""
        return self.name.split("/")[0].removesuffix(".py")

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        return tuple(_functions_in(self, self.tree, "", None, False))

    @cached_property
    def classes(self) -> tuple[ast.ClassDef, ...]:
        return tuple(node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef))


def _functions_in(
    file: SourceFile, node: ast.AST, prefix: str, owner: ast.ClassDef | None, nested: bool
) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Def):
            yield Function(file, child, prefix + child.name, owner, nested)
            yield from _functions_in(file, child, f"{prefix}{child.name}.", None, True)
        elif isinstance(child, ast.ClassDef):
            yield from _functions_in(file, child, f"{prefix}{child.name}.", child, nested)
        else:
            yield from _functions_in(file, child, prefix, owner, nested)


@cache
def read_source() -> tuple[SourceFile, ...]:
    """All files, in the order of their paths."""
    return tuple(
        SourceFile(path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))
    )


def list_functions() -> list[Function]:
    """All functions and methods of all files."""
    return [function for file in read_source() for function in file.functions]


@cache
def read_project() -> dict[str, object]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def list_layers() -> list[list[str]]:
    """The rooms as the import contract orders them, highest first; those of one row do not import each other."""
    rows: list[str] = read_project()["tool"]["importlinter"]["contracts"][0]["layers"]  # type: ignore[index]
    return [[room.strip().removeprefix("trimodal.").strip("()") for room in re.split(r"[|:]", row)] for row in rows]


def list_rooms() -> set[str]:
    """The rooms that there are: packages and files directly below src/trimodal, but for the two that only pass on."""
    return {file.room for file in read_source()} - {"__init__", "__main__"}

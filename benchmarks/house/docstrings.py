"""Who says what: shapes, what is raised, units, sources. Each function returns (all that have to, those that do not)."""

from __future__ import annotations

import ast
import json
import re

from benchmarks.house.source import PACKAGE, Function, SourceFile, list_functions, read_source

Told = tuple[list[str], list[str]]
_TENSOR = re.compile(r"\b(Tensor|ndarray|NDArray|Bytes)\b")
_SIZE = r"[^\s(),]+(?: [·+−*/-] [^\s(),]+)*"  # one word, or several with signs between: `rows`, `2^bits`, `…`, `m · k`
_SHAPE = re.compile(
    rf"\({_SIZE},(?: {_SIZE},)*(?: {_SIZE})?\)|\({_SIZE}(?: × {_SIZE})+\)|"
    r"\b(?:[Ss]calars?|[Ss]hape[sd]?|b?float(?:16|32|64)|bool|u?int(?:8|16|32|64)|dtypes?)\b|\b\d-d\b"
)
# Names that say themselves what is counted. Shares, ratios and factors have no unit: they are of something, which the docstring says.
_UNITS = re.compile(
    r"(?:^|_)(?:bytes|seconds|ms|bits|tokens|samples|steps|blocks|rows|columns|places|points|lines|files|parameters|macs|flops|units|heads|"
    r"batches|number|count|seed|rank|ranks|width|size|sizes|frames|labels|rate|index|format|cores|threads|version|dim|dims|batch|group|groups|"
    r"tensors|percent)(?:_before|_after)?$"
)
_OPTIONAL_HOOKS = {"overload", "abstractmethod"}


def list_shapes() -> Told:
    """Public functions with tensors in their signature; their docstrings say a shape or a dtype."""
    found = [one for one in list_functions() if one.public and _TENSOR.search(one.annotations) and not _is_fixed(one)]
    return [str(one) for one in found], [str(one) for one in found if not _SHAPE.search(_doc_with_bases(one))]


def _doc_with_bases(function: Function) -> str:
    """Its docstring, and of a method those of the methods of ours that it stands in for: what they say need not be said again."""
    bases = {ast.unparse(base).split("[")[0] for base in function.owner.bases} if function.owner else set()
    own = function.node.name
    above = [one for one in list_functions() if one.owner is not None and one.owner.name in bases and one.node.name == own]
    return "\n".join([function.doc, *map(_doc_with_bases, above)])


def _is_fixed(function: Function) -> bool:
    """Whether its form is given by somebody else: a library's hook, a field of a method's record, or another overload."""
    own = function.name.split(".")[-1]
    return own.startswith("__") or bool(function.decorators & _OPTIONAL_HOOKS)


def list_raises() -> Told:
    """Public functions that raise one of our errors themselves; their docstrings have a `Raises:`."""
    errors = _names_of_errors()
    found = [one for one in list_functions() if one.public and _raises_own(one, errors)]
    return [str(one) for one in found], [str(one) for one in found if "Raises:" not in _doc_with_bases(one)]


def _names_of_errors() -> set[str]:
    """Our exceptions: classes whose base is one of Python's or ours, and functions that make one."""
    classes = [node for file in read_source() for node in file.classes]
    known = {"Exception", "ValueError", "RuntimeError"}
    for _ in range(4):
        known |= {node.name for node in classes if {ast.unparse(base) for base in node.bases} & known}
    known -= {"Exception", "ValueError", "RuntimeError"}
    makers = {one.name for one in list_functions() if one.node.returns is not None and ast.unparse(one.node.returns) in known}
    return known | makers


def _raises_own(function: Function, errors: set[str]) -> bool:
    """Whether a `raise` of one of `errors` stands in it, and not in a function within it."""
    inner = {id(node) for child in ast.walk(function.node) if child is not function.node and isinstance(child, ast.FunctionDef)
             for node in ast.walk(child)}  # fmt: skip
    for node in ast.walk(function.node):
        if isinstance(node, ast.Raise) and node.exc is not None and id(node) not in inner:
            called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if ast.unparse(called).split(".")[-1] in errors:
                return True
    return False


def list_docstrings() -> Told:
    """Files, public classes, public functions and methods; they have a docstring."""
    found, bare = [], []
    for file in read_source():
        parts: list[tuple[str, str]] = [(file.name, file.doc)]
        parts += [(f"{file.name}:{node.lineno} {node.name}", ast.get_docstring(node) or "") for node in file.classes if node.name[0] != "_"]
        parts += [(str(one), one.doc) for one in file.functions if one.public and not _is_fixed(one)]
        found += [name for name, _ in parts]
        bare += [name for name, doc in parts if not doc]
    return found, bare


def list_sources() -> Told:
    """Methods: the record names a paper, and the file's docstring its source, by year, arXiv or title."""
    rows = json.loads((PACKAGE / "catalogue.json").read_text(encoding="utf-8"))
    files = [file for file in read_source() if file.name.startswith("methods/") and _makes_method(file)]
    found = [row["name"] for row in rows] + [file.name for file in files]
    bare = [row["name"] for row in rows if not row["paper"].strip()]
    bare += [file.name for file in files if not re.search(r"(19|20)\d\d|arXiv|folklore", file.doc)]
    return found, bare


def _makes_method(file: SourceFile) -> bool:
    return any(isinstance(node, ast.Call) and ast.unparse(node.func) == "Method" for node in ast.walk(file.tree))


def list_units() -> Told:
    """Fields of dataclasses and options that hold a number; the name, a comment, the option's line or the docstring says of what."""
    found, bare = [], []
    for file in read_source():
        for owner in file.classes:
            if owner.name.startswith("_") or not any("dataclass" in ast.unparse(one) for one in owner.decorator_list):
                continue
            for field in owner.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_number(field):
                    if field.target.id.startswith("_"):
                        continue
                    name = f"{file.name}:{field.lineno} {owner.name}.{field.target.id}"
                    found.append(name)
                    bare += [] if _says_unit(field, owner, file) else [name]
    return found, bare


def _is_number(field: ast.AnnAssign) -> bool:
    return bool(re.fullmatch(r"(int|float)( \| None)?", ast.unparse(field.annotation)))


def _says_unit(field: ast.AnnAssign, owner: ast.ClassDef, file: SourceFile) -> bool:
    name = ast.unparse(field.target)
    line = file.text.splitlines()[field.lineno - 1]
    described = isinstance(field.value, ast.Call) and ast.unparse(field.value.func) in ("option", "Field")
    doc = ast.get_docstring(owner) or ""
    return bool(_UNITS.search(name) or described or "  # " in line or re.search(rf"\b{name}\b", doc))

"""The house is as docs/architecture.md says: rooms, borders, lists. The counts themselves are `python -m benchmarks.house`."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.house import borders, costs, docstrings, page, source  # noqa: E402

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_room_is_in_the_import_contract() -> None:
    named = [room for row in source.list_layers() for room in row]
    assert len(named) == len(set(named))
    assert set(named) == source.list_rooms()


def test_imports_point_down() -> None:
    assert borders.list_uplinks() == []


def test_no_test_on_an_edits_kind_outside_edits() -> None:
    assert borders.list_edit_tests() == []


def test_no_single_method_is_imported_outside_methods() -> None:
    assert borders.list_method_imports() == []


def test_imports_stand_at_the_top() -> None:
    assert borders.list_inner_imports() == []


def test_everything_public_has_a_docstring_and_every_method_its_source() -> None:
    assert docstrings.list_docstrings()[1] == [] and docstrings.list_sources()[1] == []


def test_picture_is_that_of_the_import_contract() -> None:
    assert page.read_between(PAGE, "rooms") == page.draw_rooms(), "run: python -m benchmarks.house --write"


def test_counts_have_been_written() -> None:
    counts = page.read_between(PAGE, "counts")
    assert "| lines of a function" in counts and all(f"| a new {thing.name} " in counts for thing in costs.THINGS)


def test_every_room_is_described() -> None:
    (table,) = re.findall(r"\| room \|.*?\n\n", PAGE, re.DOTALL)
    said = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.strip().splitlines())))
    assert said == source.list_rooms()


def test_files_that_the_page_names_are_there() -> None:
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE)
    missing = {name for name in named if not (ROOT / "src/trimodal" / name).exists() and not (ROOT / name).exists()}
    assert {name for name in missing if "NAME" not in name} <= {"exporting/__init__.py"}  # a room that is still to be built


@pytest.mark.parametrize("thing", costs.THINGS, ids=lambda thing: thing.name)
def test_what_a_new_thing_touches(thing: costs.NewThing) -> None:
    cost = costs.count_cost(thing)
    assert cost is not None and (cost.new or cost.changed)
    assert len(cost.changed) <= thing.most_files and (thing.most_lines is None or (cost.lines or 0) <= thing.most_lines)


def test_a_wrapped_import_is_left_out_of_what_a_new_thing_touches() -> None:
    text = "from a import (\n    one,\n    two,\n)\n\nLIST = (\n    one.X,\n    two.X,\n)\n"
    assert costs.count_lines_without_imports(text, "@@ -1 +1,4 @@\n@@ -4,0 +8 @@\n") == 1
    assert costs.count_lines_without_imports(text, "@@ -2,0 +3 @@\n@@ -3,0 +5,2 @@\n@@ -9 +8,0 @@\n") == 1


def parsed(code: str) -> ast.AST:
    return ast.parse(code).body[0]


@pytest.mark.parametrize(("code", "found"), [
    ("'cut' in step", True), ("step['fold']", True), ("verb == 'drop'", True), ("verb in ('cut', 'treat')", True),
    ("method.kind == 'share'", False), ("method.on == 'fold'", False), ("verb == 'width'", False), ("options['merge']", False),
])  # fmt: skip
def test_what_a_test_on_an_edit_is(code: str, found: bool) -> None:
    assert any(borders._tests_edit(node) for node in ast.walk(parsed(code))) == found


@pytest.mark.parametrize(("doc", "found"), [
    ("Codes uint8 (rows, columns).", True), ("E[x²] (n,).", True), ("x (…, width) divided.", True), ("A scalar.", True),
    ("Scores (batch, tokens, classes).", True),
    ("The weight (which is large).", False), ("What it says (if at all, and why).", False), ("The layer's weight.", False),
])  # fmt: skip
def test_what_a_shape_is(doc: str, found: bool) -> None:
    assert bool(docstrings._SHAPE.search(doc)) == found


def test_raising_in_an_inner_function_is_not_its_own() -> None:
    code = "def f():\n    def g():\n        raise ModelError('no')\n    return g"
    file = source.SourceFile("x.py", code + "\ndef h():\n    raise ModelError('no') from None\n")
    found = {one.name: docstrings._raises_own(one, {"ModelError"}) for one in file.functions}
    assert found == {"f": False, "f.g": True, "h": True}

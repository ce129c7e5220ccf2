"""A family, a method and a source of another package, installed and used; and what is said of a package that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import trimodal
from trimodal import installed
from trimodal.errors import InputError
from trimodal.methods import METHODS, get_method, list_known_methods
from trimodal.models.families import list_families
from trimodal.models.families.bert import FAMILY as BERT

PACKAGE = Path(__file__).parents[2] / "examples" / "third_party"
RECIPE = """steps:
  - prune.neurons: {where: text.0.neurons, sparsity: 0.5, score: magnitude}
  - prune.random: {where: "*.up", sparsity: 0.5}
  - quantize.rtn: {where: "*embedding*", bits: 8}
"""
Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a module of Python in an empty folder, with the package installed beside trimodal."""
    place, work = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("work")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(place)]
    made = subprocess.run([*pip, str(_copy(PACKAGE, work / "package"))], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (work / "recipe.yaml").write_text(RECIPE)
    paths = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])

    def call(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=work, env={**os.environ, "PYTHONPATH": paths}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def _copy(source: Path, place: Path) -> Path:
    """The package without what building leaves behind, so that nothing is built in the repository."""
    for file in sorted(path for path in source.rglob("*") if path.suffix in (".py", ".toml", ".md") and "build" not in path.parts):
        (place / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        (place / file.relative_to(source)).write_bytes(file.read_bytes())
    return place


def test_a_package_adds_a_family_a_method_and_a_source(run: Run) -> None:
    run("trimodal_tally", "tally")
    assert json.loads(run("trimodal", "methods", "prune.random", "--json"))[0]["idea"] == "Weights go by lot."
    seen = json.loads(run("trimodal", "inspect", "tally/model", "--json"))
    assert seen["family"] == "tally" and [tower["name"] for tower in seen["towers"]] == ["text"]
    command = ("compress", "tally/model", "--recipe", "recipe.yaml", "--data", "tally:tally/lines.tsv", "-o", "out", "--json")
    verdict = json.loads(run("trimodal", *command))
    assert not [check for check in verdict["checks"] if check["status"] == "failed"], verdict["checks"]
    assert {check["name"]: check["status"] for check in verdict["checks"]}["reloads in a fresh process"] == "passed"
    assert verdict["metrics"][0]["before"] > 0.9 and verdict["metrics"][0]["samples"] == 50


@pytest.fixture
def nothing_added() -> Iterator[None]:
    installed._load_entry_points.cache_clear()
    yield
    installed._registered.clear()
    installed._load_entry_points.cache_clear()


def test_a_program_registers_its_own(nothing_added: None) -> None:
    from dataclasses import replace

    mine = replace(get_method("quantize.rtn"), name="quantize.mine", idea="as it was")
    other = replace(BERT, name="mine")
    trimodal.register(mine, other)
    trimodal.register(replace(mine, idea="as it is"))
    assert get_method("quantize.mine").idea == "as it is" and list_known_methods()[: len(METHODS)] == METHODS
    assert list_families()[0] is other
    with pytest.raises(InputError, match=r"there is a method 'quantize\.rtn' already"):
        trimodal.register(replace(mine, name="quantize.rtn"))
    with pytest.raises(InputError, match=r"str cannot be registered; expected a trimodal\.methods\.Method"):
        trimodal.register("quantize.mine")  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "said"), [
    ("trimodal.nothing:METHOD", r"'bad' \(trimodal\.nothing:METHOD, group trimodal\.methods\) cannot be loaded \(ModuleNotFoundError"),
    ("trimodal.errors:InputError", "is a type, expected a trimodal.methods.method.Method; mend or uninstall that package"),
])  # fmt: skip
def test_a_package_that_is_wrong_is_named(nothing_added: None, monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    monkeypatch.setattr(installed, "entry_points", lambda **asked: [EntryPoint("bad", value, "trimodal.methods")])
    with pytest.raises(InputError, match=said):
        get_method("quantize.rtn")

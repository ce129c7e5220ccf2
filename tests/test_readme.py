"""What README.md says is so: its table is what the command prints, its recipes and options exist, its files are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trimodal import cli
from trimodal.catalogue import list_method_rows, list_recipes, name_recipe_steps

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_what_it_is_for_comes_first() -> None:
    first = next(line for line in README.splitlines() if line and not line.startswith("#"))
    assert "trimodal compresses multimodal models" in first


def test_table_of_models_and_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.coverage import complete, coverage

    assert complete() and coverage() in README, "run: python -m benchmarks.coverage"


@pytest.mark.parametrize("name", re.findall(r"--recipe (\w+)", README) + re.findall(r"^\| \w+ \| `(\w+)` ", README, re.MULTILINE))
def test_recipes_exist(name: str) -> None:
    assert name in list_recipes()


def test_recipes_are_called_what_they_are() -> None:
    rows = re.findall(r"^\| \w+ \| `(\w+)` \| \w+ \| ([^|]+) \|", README, re.MULTILINE)
    assert len(rows) == 3
    for name, short in rows:
        assert short in (name_recipe_steps(name)[0], "3.1 bits per weight, entropy-coded")


def test_verbs_methods_and_options_exist() -> None:
    verbs = {command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    assert set(re.findall(r"^    trimodal +(\w+)", README, re.MULTILINE)) <= verbs
    assert set(re.findall(r"`((?:quantize|prune|fold|share|merge|factorize)\.\w+)`", README)) <= {row["name"] for row in list_method_rows()}


def test_links_and_picture() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert pictures and all((ROOT / picture).stat().st_size <= 200_000 for picture in pictures)


def test_extras_exist() -> None:
    if True:
        import tomllib

        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for extras in re.findall(r'pip install "\.\[([\w,]+)\]"', README):
            assert set(extras.split(",")) <= known.keys()

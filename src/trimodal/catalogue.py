"""What there is to choose from, read without importing torch: the methods and the built-in recipes.

The methods' descriptions stand in `catalogue.json`, which `python -m trimodal.methods` writes from the methods
themselves; a test holds them against each other. The JSON schema of a recipe, `recipe.schema.json`, is written by
`python -m trimodal.planning` in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

from trimodal.errors import RecipeError, suggest_names
from trimodal.shorthand import short_name_of

Row = Mapping[str, Any]
FILE = "catalogue.json"
SCHEMA = "recipe.schema.json"


@cache
def list_method_rows() -> tuple[Row, ...]:
    """A row per method: name, kind, paper, idea, works_on, options."""
    return tuple(json.loads((resources.files("trimodal") / FILE).read_text(encoding="utf-8")))


def describe_methods(name: str | None = None) -> tuple[Row, ...]:
    """All methods, or the one called `name`.

    Raises:
        RecipeError: there is no such method; the nearest names are suggested.
    """
    if name is None:
        return list_method_rows()
    found = tuple(row for row in list_method_rows() if row["name"] == name)
    if not found:
        raise RecipeError(f"there is no method '{name}'; {suggest_names(name, [row['name'] for row in list_method_rows()])}")
    return found


def list_recipes() -> dict[str, str]:
    """Names of the built-in recipes and the first comment line of each."""
    return {name: text.splitlines()[0].lstrip("# ") for name, text in _read_recipe_texts().items()}


def read_recipe_text(name: str) -> str | None:
    """The text of the built-in recipe called `name`, None if there is none."""
    return _read_recipe_texts().get(name)


def read_recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, as plain data."""
    found: dict[str, Any] = json.loads((resources.files("trimodal") / SCHEMA).read_text(encoding="utf-8"))
    return found


def name_recipe_steps(name: str) -> list[str]:
    """What the field calls the steps of a built-in recipe, each once: `W4A16 g64`."""
    steps = yaml.safe_load(_read_recipe_texts()[name])["steps"]
    pairs = [(step, {}) if isinstance(step, str) else next(iter(step.items())) for step in steps]
    return list(dict.fromkeys(filter(None, (short_name_of(method, _with_defaults(method, config or {})) for method, config in pairs))))


def _with_defaults(method: str, config: Row) -> Row:
    rows = [row for row in list_method_rows() if row["name"] == method]
    defaults = {option["name"]: option["default"] for row in rows for option in row["options"]}
    return {**defaults, **config}


def _read_recipe_texts() -> dict[str, str]:
    folder = resources.files("trimodal") / "planning" / "recipes"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name.removesuffix(".yaml"))
    return {f.name.removesuffix(".yaml"): f.read_text(encoding="utf-8") for f in files}

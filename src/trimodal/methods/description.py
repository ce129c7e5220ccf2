"""A method in plain data, as `trimodal methods` shows it."""

from __future__ import annotations

from typing import Any

from trimodal.methods import Method, select_methods, works_on
from trimodal.methods.options import describe_options


def describe_method(method: Method) -> dict[str, Any]:
    """Its name, kind, paper, idea, what it works on, and its options."""
    return {
        "name": method.name, "kind": method.kind, "paper": method.paper, "idea": method.idea, "works_on": works_on(method),
        "options": describe_options(method.config),
    }  # fmt: skip


def describe_known_methods(name: str | None = None) -> tuple[dict[str, Any], ...]:
    """All methods, those of others too, or the one called `name`.

    Raises:
        RecipeError: there is no such method; the nearest name is suggested.
        InputError: a package declares as a method what is none.
    """
    return tuple(describe_method(method) for method in select_methods(name))

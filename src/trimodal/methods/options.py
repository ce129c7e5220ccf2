"""A method's options: each declares its meaning, unit, range, default and the values worth searching, in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any, Literal, get_origin, get_type_hints

from trimodal.errors import RecipeError, suggest_names


@dataclass(frozen=True)
class Option:
    """What is known of one option beyond its type and default."""

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    unit: str = ""
    search: tuple[Any, ...] = ()

    @property
    def expected(self) -> str:
        """The allowed values in words, empty if anything of the right type goes."""
        choices = ", ".join(str(choice) for choice in self.choices)
        if self.low is None:
            return f"one of {choices}" if choices else ""
        span = f"{self.low:g} or more" if self.high is None else f"{self.low:g} to {self.high:g}"
        several = "one of " if len(self.choices) > 1 else ""
        return f"{span}, or {several}{choices}" if choices else span


def option(default: Any, help: str, **rest: Any) -> Any:
    """A dataclass field with an `Option` attached; `default` may be `...` for an option that must be given."""
    metadata = {"option": Option(help, **rest)}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


def describe_options(config: type) -> list[dict[str, Any]]:
    """One row per option: name, type, default, expected, unit, help, search."""
    hints = get_type_hints(config)
    return [
        {
            "name": f.name,
            "type": _type_name(hints[f.name]),
            "default": None if f.default is MISSING else f.default,
            "required": f.default is MISSING,
            "expected": _get_option(f).expected,
            "unit": _get_option(f).unit,
            "help": _get_option(f).help,
            "search": list(_get_option(f).search),
        }
        for f in fields(config)
    ]


def build_config(config: type, values: Mapping[str, Any], where: str) -> Any:
    """The config with `values`, each checked for name, type and range.

    Raises:
        RecipeError: naming `where`, the option, what was found and what was expected.
    """
    known = {f.name: f for f in fields(config)}
    hints = get_type_hints(config)
    for name, value in values.items():
        if name not in known:
            raise RecipeError(f"{where} has no option '{name}'; {suggest_names(name, known)}")
        _check_value(value, hints[name], _get_option(known[name]), f"{where}: {name}")
    missing = [name for name, f in known.items() if f.default is MISSING and name not in values]
    if missing:
        raise RecipeError(f"{where} needs the option '{missing[0]}': {_get_option(known[missing[0]]).help}")
    return config(**{name: _coerce_value(value, hints[name]) for name, value in values.items()})


def config_to_dict(config: Any) -> dict[str, Any]:
    """The config as plain data for the plan."""
    return asdict(config)


def _get_option(f: Field[Any]) -> Option:
    found: Option = f.metadata["option"]
    return found


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "str"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _allowed_types(hint: Any) -> tuple[type, ...]:
    if get_origin(hint) is Literal:
        return (str,)
    parts = getattr(hint, "__args__", None) or (hint,)
    return tuple(type(None) if part is None else part for part in parts)


def _coerce_value(value: Any, hint: Any) -> Any:
    """An int where a float is meant becomes one, so that plans read the same however it was written."""
    kinds = _allowed_types(hint)
    return float(value) if float in kinds and int not in kinds and type(value) is int else value


def _is_number_as_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and "e" in value.lower() and math.isfinite(float(value))
    except ValueError:
        return False


def _check_value(value: Any, hint: Any, known: Option, place: str) -> None:
    expected = known.expected or _type_name(hint)
    if value in known.choices and not isinstance(value, bool):
        return
    kinds = _allowed_types(hint)
    fits = any(type(value) is kind for kind in kinds) or (float in kinds and type(value) is int)
    if not fits:
        advice = "; YAML reads a number such as 1e-3 as text, write 1.0e-3" if _is_number_as_text(value) else ""
        raise RecipeError(f"{place} is {value!r}, but must be {expected} ({_type_name(hint)}){advice}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if known.choices and not is_number:
        raise RecipeError(
            f"{place} is {value!r}, but must be {expected}; {suggest_names(str(value), map(str, known.choices))}"
        )
    below = is_number and known.low is not None and not value >= known.low
    above = is_number and known.high is not None and not value <= known.high
    if below or above or (known.choices and known.low is None):
        raise RecipeError(f"{place} is {value!r}, but must be {expected}{' ' + known.unit if known.unit else ''}")

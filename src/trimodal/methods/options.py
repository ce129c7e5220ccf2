"""A method's options: each declares its meaning, unit, range, default and the values worth searching, in one place.

A config stays a plain frozen dataclass. Values that a user wrote go through a pydantic model that is made of it once: it
checks them, and is the part of the recipe's JSON schema that says what the method takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from functools import cache
from typing import Annotated, Any, Literal, Union, get_origin, get_type_hints

import pydantic

from trimodal.core.validation import Mistake, get_first_mistake
from trimodal.errors import RecipeError, suggest_names


@dataclass(frozen=True)
class Option:
    """What is known of one option beyond its type and default. A number lies between `low` and `high`, both allowed, in the `unit`
    that is said."""

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


def build_config(config: type, values: Mapping[str, Any], where: str, beside: Iterable[str] = ()) -> Any:
    """The config with `values`, each checked for name, type and range. An int where a float is meant becomes one, so that
    plans read the same however it was written. `beside` are names that may stand beside the options and may have been meant.

    Raises:
        RecipeError: naming `where`, the option, what was found and what was expected.
    """
    try:
        checked = make_options_model(config).model_validate(dict(values))
    except pydantic.ValidationError as error:
        raise RecipeError(_describe_mistake(config, values, get_first_mistake(error), where, beside)) from error
    return config(**{name: getattr(checked, name) for name in values})


@cache
def make_options_model(config: type) -> type[pydantic.BaseModel]:
    """The pydantic model of a config: strict, without unknown options, with the options' meanings and ranges. Its JSON schema
    is what editors know of them."""
    hints = get_type_hints(config)
    model: Any = pydantic.create_model  # its overloads know no fields by name
    rules = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    found: type[pydantic.BaseModel] = model(
        config.__name__, __config__=rules, **{f.name: _make_model_field(f, hints[f.name]) for f in fields(config)}
    )
    return found


def _make_model_field(f: Field[Any], hint: Any) -> tuple[Any, Any]:
    known, default = _get_option(f), ... if f.default is MISSING else f.default
    meaning = f"{known.help} ({known.unit})" if known.unit and known.unit not in known.help else known.help
    return _make_checked_type(hint, known), pydantic.Field(default, description=meaning, examples=list(known.search) or None)


def _make_checked_type(hint: Any, known: Option) -> Any:
    """The hint with all that the option says: numbers within the range, words among the choices, None where it is allowed."""
    kinds = _allowed_types(hint)
    bounded = known.low is not None or not known.choices
    numbers = [Annotated[kind, pydantic.Field(ge=known.low, le=known.high)] for kind in kinds if kind in (int, float) and bounded]
    others = [Literal[known.choices]] if known.choices else [kind for kind in kinds if kind in (str, bool)]
    nothing = [None] if type(None) in kinds else []
    return Union[(*numbers, *others, *nothing)]


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


def _describe_mistake(config: type, values: Mapping[str, Any], mistake: Mistake, where: str, beside: Iterable[str]) -> str:
    """What is wrong in words: an unknown option, one that is missing, or a value and what it must be."""
    known = {f.name: f for f in fields(config)}
    name = str(mistake.location[0])
    if mistake.is_unknown_key:
        return f"{where} has no option '{name}'; {suggest_names(name, [*known, *beside])}"
    if mistake.is_missing_key:
        return f"{where} needs the option '{name}': {_get_option(known[name]).help}"
    expected = _describe_expected(values[name], get_type_hints(config)[name], _get_option(known[name]))
    return f"{where}: {name} is {values[name]!r}, but must be {expected}"


def _describe_expected(value: Any, hint: Any, known: Option) -> str:
    """What the option must be, and what may have been meant by a value of the wrong type, an unknown word, or a number out of range."""
    expected = known.expected or _type_name(hint)
    if type(value) not in (*_allowed_types(hint), *([int] if float in _allowed_types(hint) else [])):
        advice = "; YAML reads a number such as 1e-3 as text, write 1.0e-3" if _is_number_as_text(value) else ""
        return f"{expected} ({_type_name(hint)}){advice}"
    if isinstance(value, str) and known.choices:
        return f"{expected}; {suggest_names(value, map(str, known.choices))}"
    return f"{expected} {known.unit}".rstrip()


def _is_number_as_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and "e" in value.lower() and math.isfinite(float(value))
    except ValueError:
        return False

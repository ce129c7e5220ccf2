"""Plain data from a file, checked by pydantic and turned into one of our frozen dataclasses; what is wrong in our words.

A file is read strictly: no text for a number, no `true` for 1. A list becomes the tuple that the dataclass holds, null the
NaN that JSON cannot hold where the field is `Measured`. **An unknown key is refused**, with the key that was meant: a plan by
hand may be misspelt, and a file that a newer version wrote may say what this one would leave out. What an older version did
not write has a default in the dataclass.

`import pydantic` costs nothing; its parts are loaded when they are first named, so that help is there at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import pydantic
import yaml

from trimodal.errors import IntegrityError, RecipeError, TrimodalError, suggest_names

T = TypeVar("T")
Location = tuple[int | str, ...]
_EXPECTED = {
    "int": "a whole number", "float": "a number", "finite": "a finite number", "string": "text", "bool": "true or false",
    "none": "null", "list": "a list", "tuple": "a list", "dict": "a mapping", "mapping": "a mapping", "dataclass": "a mapping",
}  # fmt: skip


class _NullIsNaN:
    """Marks a number that a file may hold as null; pydantic asks it how to read one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return pydantic.BeforeValidator(_null_to_nan).__get_pydantic_core_schema__(source, handler)


def _null_to_nan(value: Any) -> Any:
    return math.nan if value is None else value


Measured = Annotated[float, _NullIsNaN()]
"""A measured number: written as null where it is not finite (`json_text`), read as NaN from there."""


def read_record(kind: type[T], data: Any, where: str, raises: type[TrimodalError] = IntegrityError, advice: str = "") -> T:
    """`data`, plain as JSON holds it, as a `kind`: one of our dataclasses, with all that it holds.

    `where` begins the message, mostly the file's name; `advice` ends it, what to do.

    Raises:
        IntegrityError: or `raises`: a key is missing or unknown, or a value is not what it must be; the message names it.
    """
    try:
        record: T = _make_adapter(kind).validate_json(json.dumps(data), strict=True, extra="forbid")  # type: ignore[arg-type]
    except pydantic.ValidationError as error:
        raise raises(f"{where}: {_add_advice(_describe_record_mistake(error, kind), advice)}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise raises(f"{where} holds what JSON cannot ({error}); expected plain text, numbers, lists and mappings") from error
    return record


def check_format(data: Any, known: int, where: str) -> None:
    """Refuse a file of a later `format` than this version knows.

    Raises:
        IntegrityError: `data` is of a later format.
    """
    found = data.get("format") if isinstance(data, dict) else None
    if type(found) is int and found > known:
        raise IntegrityError(f"{where} has format {found}, this version reads up to {known}; update trimodal")


def omit_keys(data: Any, *names: str) -> Any:
    """`data` without the keys that are written for other readers and follow from the rest; as it is where it is no mapping."""
    return {key: value for key, value in data.items() if key not in names} if isinstance(data, dict) else data


@cache
def _make_adapter(kind: Any) -> Any:
    return pydantic.TypeAdapter(kind)


@dataclass(frozen=True)
class Mistake:
    """One thing that pydantic refused: its `location` in the data, the `found` value there, pydantic's `type` of it, and what was
    `expected` in our words."""

    location: Location
    found: Any
    type: str
    expected: str

    @property
    def is_unknown_key(self) -> bool:
        """Whether the last of the location is a key that nobody knows."""
        return self.type in ("unexpected_keyword_argument", "extra_forbidden", "invalid_key")

    @property
    def is_missing_key(self) -> bool:
        """Whether the last of the location is a key that has to be there."""
        return self.type in ("missing", "missing_argument", "missing_keyword_only_argument")


def get_first_mistake(error: pydantic.ValidationError) -> Mistake:
    """The mistake to speak of: an unknown key before others, as it is mostly why another is missing."""
    mistakes = [
        Mistake(one["loc"], one["input"], one["type"], _describe_expected(one)) for one in error.errors(include_url=False)
    ]
    return min(mistakes, key=lambda mistake: not mistake.is_unknown_key)


def _describe_record_mistake(error: pydantic.ValidationError, kind: Any) -> str:
    """The first mistake in a record of a `kind`, and how many more there are."""
    more = error.error_count() - 1
    return _describe_mistake(get_first_mistake(error), kind) + (f" (and {more} more)" if more else "")


def _describe_mistake(mistake: Mistake, kind: Any) -> str:
    place, last = format_location(mistake.location), mistake.location[-1:]
    inside = f" in {format_location(mistake.location[:-1])}" if mistake.location[1:] else ""
    if mistake.is_unknown_key:
        meant = _suggest_key(str(last[0]), _find_dataclass(kind, mistake.location[:-1]))
        return f"there is an unknown key '{last[0]}'{inside}, mistyped or of a newer trimodal; {meant}"
    if mistake.is_missing_key:
        return f"there is no key '{last[0]}'{inside}"
    if mistake.type == "value_error":  # the dataclass itself refuses it
        return ": ".join(filter(None, (place, mistake.expected)))
    return f"{f'{place} is' if place else 'found'} {mistake.found!r:.60}, but must be {mistake.expected}"


def _add_advice(text: str, advice: str) -> str:
    return text if not advice else f"{text} {advice[:1].upper()}{advice[1:]}" if text.endswith("?") else f"{text}; {advice}"


def format_location(location: Location) -> str:
    """Where in the file, as one would write it: `edits[2].places[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _describe_expected(mistake: Mapping[str, Any]) -> str:
    """What pydantic expected, in our words."""
    if mistake["type"] == "literal_error":
        return f"one of {mistake['ctx']['expected']}"
    if mistake["type"] == "value_error":
        return str(mistake["ctx"]["error"])
    said: str = mistake["msg"]
    return _EXPECTED.get(mistake["type"].split("_")[0], said.removeprefix("Input should be "))


def _suggest_key(key: str, holder: Any) -> str:
    return suggest_names(key, [field.name for field in fields(holder)]) if holder else "leave it out"


def _find_dataclass(kind: Any, location: Location) -> Any:
    """The dataclass that stands at `location` in a `kind`, None where that is not plain to see."""
    for part in location:
        if isinstance(part, str) and is_dataclass(kind):
            kind = get_type_hints(kind).get(part)
        kind = next((inner for inner in (kind, *get_args(kind)) if is_dataclass(inner)), kind)
    return kind if is_dataclass(kind) else None


def parse_yaml_mapping(name: str, text: str, needed: str) -> dict[str, Any]:
    """The mapping in the YAML `text` of the file `name`; what is `needed` in it is said in errors.

    Raises:
        RecipeError: it is no YAML, or holds something else.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{name}{line}: not valid YAML ({getattr(error, 'problem', error)})") from error
    except (ValueError, RecursionError) as error:  # a date that is none, or brackets without end
        raise RecipeError(f"{name}: not valid YAML ({error}); expected a mapping{needed}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{name}: found {type(content).__name__}, expected a mapping{needed}")
    return content

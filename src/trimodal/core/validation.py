"""Plain data from a file, checked by pydantic and turned into one of our frozen dataclasses; what is wrong in our words.

A file is read strictly: no text for a number, no `true` for 1. A list becomes the tuple that the dataclass holds, null the
NaN that JSON cannot hold where the field is `Measured`. **An unknown key is refused**, with the key that was meant: a plan by
hand may be misspelt, and a file that a newer version wrote may say what this one would leave out. What an older version did
not write has a default in the dataclass.

`import pydantic` costs nothing; its parts are loaded when they are first named, so that help is there at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import pydantic

from trimodal.errors import IntegrityError, TrimodalError, suggest_names

T = TypeVar("T")
Location = tuple[int | str, ...]
_UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")
_MISSING_KEY = ("missing", "missing_argument", "missing_keyword_only_argument")
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
        mistakes = describe_mistakes(error.errors(include_url=False), kind)
        raise raises(f"{where}: {_add_advice(mistakes, advice)}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise raises(f"{where} holds what JSON cannot ({error}); expected plain text, numbers, lists and mappings") from error
    return record


def omit_keys(data: Any, *names: str) -> Any:
    """`data` without the keys that are written for other readers and follow from the rest; as it is where it is no mapping."""
    return {key: value for key, value in data.items() if key not in names} if isinstance(data, dict) else data


@cache
def _make_adapter(kind: Any) -> Any:
    return pydantic.TypeAdapter(kind)


def describe_mistakes(mistakes: Iterable[Mapping[str, Any]], kind: Any) -> str:
    """The first of pydantic's `mistakes` in a `kind` in words, unknown keys before others, and how many more there are."""
    first, *more = sorted(mistakes, key=lambda mistake: mistake["type"] not in _UNKNOWN_KEY)
    others = f" (and {len(more)} more)" if more else ""
    return f"{_describe_mistake(first, kind)}{others}"


def _add_advice(text: str, advice: str) -> str:
    return text if not advice else f"{text} {advice.capitalize()}" if text.endswith("?") else f"{text}; {advice}"


def _describe_mistake(mistake: Mapping[str, Any], kind: Any) -> str:
    location, found = mistake["loc"], mistake["type"]
    if found in (*_UNKNOWN_KEY, *_MISSING_KEY):
        inside = f" in {format_location(location[:-1])}" if location[:-1] else ""
        if found in _MISSING_KEY:
            return f"there is no key '{location[-1]}'{inside}"
        return f"there is an unknown key '{location[-1]}'{inside}, mistyped or of a newer trimodal; {_suggest_key(location, kind)}"
    if found == "value_error":  # the dataclass itself refuses it
        return ": ".join(filter(None, (format_location(location), str(mistake["ctx"]["error"]))))
    value = f"{format_location(location)} is {mistake['input']!r:.60}" if location else f"found {mistake['input']!r:.60}"
    return f"{value}, but must be {describe_expected(mistake)}"


def format_location(location: Location) -> str:
    """Where in the file, as one would write it: `edits[2].places[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def describe_expected(mistake: Mapping[str, Any]) -> str:
    """What pydantic expected, in our words."""
    if mistake["type"] == "literal_error":
        return f"one of {mistake['ctx']['expected']}"
    said: str = mistake["msg"]
    return _EXPECTED.get(mistake["type"].split("_")[0], said.removeprefix("Input should be "))


def _suggest_key(location: Location, kind: Any) -> str:
    holder = _find_dataclass(kind, location[:-1])
    known = [field.name for field in dataclasses.fields(holder)] if holder else []
    return suggest_names(str(location[-1]), known) if known else "leave it out"


def _find_dataclass(kind: Any, location: Location) -> Any:
    """The dataclass that stands at `location` in a `kind`, None where that is not plain to see."""
    for part in location:
        if isinstance(part, str) and dataclasses.is_dataclass(kind):
            kind = get_type_hints(kind).get(part)
        kind = next((inner for inner in (kind, *get_args(kind)) if dataclasses.is_dataclass(inner)), kind)
    return kind if dataclasses.is_dataclass(kind) else None

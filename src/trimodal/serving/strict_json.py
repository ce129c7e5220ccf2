"""One strict reader of JSON for all that strangers send.

Python's reader takes more than JSON is (`NaN`, `1e999`, a key twice, half of a surrogate pair) and goes as deep as the stack. Two
programs that read such a text differently can be played against each other, so it is refused: RFC 8259, with the advice of RFC 7493
(I-JSON) made duties.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from trimodal.serving.refusals import RefusedError, refuse_bad

MOST_CONTAINERS = 1_000_000
"""Arrays and objects of one text: each takes 56 bytes of memory or more, and may be two bytes of text."""

_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|([\[{])|([\]}])', re.DOTALL)
"""A string, which ends at the end of the text at the latest, so that none takes quadratic time; an opening; a closing."""

_SUSPECTS = (b"\\ud", b"\\uD", b"\\u0000")


def read_json(body: bytes, depth: int) -> Any:
    """The value that `body` holds, in Python's types.

    Args:
        body: UTF-8 without a byte order mark.
        depth: arrays and objects may lie in each other as deep as this.

    Raises:
        RefusedError: 400, with the position where it is known, never with what stood there.
    """
    _check_depth(body, depth)
    try:
        value = json.loads(_decode(body), object_pairs_hook=_make_object, parse_constant=_refuse_constant, parse_float=_read_float)
    except json.JSONDecodeError as error:
        raise refuse_bad(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError):
        raise refuse_bad("the body is not JSON that is taken: a number is too long") from None
    if any(suspect in body for suspect in _SUSPECTS):
        _check_strings(value)
    return value


def read_object(body: bytes, depth: int) -> dict[str, Any]:
    """The object that `body` holds.

    Raises:
        RefusedError: 400, as `read_json`, or another value than an object.
    """
    value = read_json(body, depth)
    if not isinstance(value, dict):
        raise refuse_bad(f"the body is JSON {name_kind(value)}; expected an object")
    return value


def take_string(value: Any, field: str, most: int) -> str:
    """`value`, which must be a text of 1 to `most` characters.

    Raises:
        RefusedError: 400.
    """
    if not isinstance(value, str):
        raise refuse_bad(f"{field} is {name_kind(value)}; expected a string", field)
    if not 0 < len(value) <= most:
        raise refuse_bad(f"{field} has {len(value):,} characters; expected 1 to {most:,}", field)
    return value


def take_integer(value: Any, field: str, least: int, most: int) -> int:
    """`value`, which must be a whole number from `least` to `most`.

    Raises:
        RefusedError: 400.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise refuse_bad(f"{field} is {name_kind(value)}; expected a whole number", field)
    if not least <= value <= most:
        raise refuse_bad(f"{field} is out of range; expected {least:,} to {most:,}", field)
    return value


def take_list(value: Any, field: str, most: int) -> list[Any]:
    """`value`, which must be a list of 1 to `most` things.

    Raises:
        RefusedError: 400, or 413 where there are too many.
    """
    if not isinstance(value, list):
        raise refuse_bad(f"{field} is {name_kind(value)}; expected an array", field)
    if not value:
        raise refuse_bad(f"{field} is empty", field)
    if len(value) > most:
        raise RefusedError(413, f"{field} has {len(value):,} elements; at most {most:,} are taken", field=field)
    return value


def take_object(value: Any, field: str) -> dict[str, Any]:
    """`value`, which must be an object.

    Raises:
        RefusedError: 400.
    """
    if not isinstance(value, dict):
        raise refuse_bad(f"{field} is {name_kind(value)}; expected an object", field)
    return value


def check_keys(value: dict[str, Any], taken: Sequence[str], field: str) -> None:
    """Refuse what is not known: a field that is passed over is a wish that is not met.

    Raises:
        RefusedError: 400, with one of the unknown keys and all known ones.
    """
    unknown = next((key for key in value if key not in taken), None)
    if unknown is not None:
        raise refuse_bad(f"{field} has an unknown field {shorten(unknown)!r}; known are {', '.join(taken)}", unknown[:64])


def shorten(text: str, most: int = 64) -> str:
    """The first `most` characters of `text`: what a client sent may be told, and must not fill the answer."""
    return text if len(text) <= most else text[:most] + "…"


def drop_nulls(value: dict[str, Any]) -> dict[str, Any]:
    """`value` without what is null: many clients write out what they do not ask for."""
    return {key: inner for key, inner in value.items() if inner is not None}


def name_kind(value: Any) -> str:
    """What JSON calls a value of Python."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return {str: "a string", int: "a number", float: "a number", list: "an array", dict: "an object"}.get(type(value), "something else")


def _check_depth(body: bytes, depth: int) -> None:
    if body.count(b"[") + body.count(b"{") <= depth:
        return
    now = containers = 0
    for token in _TOKENS.finditer(body):
        if token.lastindex == 1:
            now, containers = now + 1, containers + 1
            if now > depth:
                raise refuse_bad(f"the JSON goes deeper than the {depth} levels that are taken")
            if containers > MOST_CONTAINERS:
                raise refuse_bad(f"the JSON has more than {MOST_CONTAINERS:,} arrays and objects; send tensors flat, or as binary data")
        elif token.lastindex == 2:
            now -= 1


def _decode(body: bytes) -> str:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse_bad(f"the body is not UTF-8 at byte {error.start}") from None
    if text.startswith("\ufeff"):
        raise refuse_bad("the body begins with a byte order mark; expected JSON at once")
    return text


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise refuse_bad(f"the key {shorten(twice)!r} is there twice in one object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise refuse_bad(f"{name} is no JSON number")


def _read_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise refuse_bad("a number is too large for 64 bits of floating point")
    return value


def _check_strings(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise refuse_bad("a string has the character NUL")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise refuse_bad("a string has half of a surrogate pair") from None
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_strings(key)
            _check_strings(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_strings(inner)

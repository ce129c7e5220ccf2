"""From the fields of one line or row to a sample, every field checked. What is wrong is a DataError that says where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trimodal.core import MODALITIES, Media, Sample
from trimodal.errors import DataError, suggest_names

FIELDS = ("image", "audio", "text", "label", "labels", "target", "group", "split")
SPLITS = ("train", "test")

_JSON_NAMES = {
    type(None): "null", bool: "true/false", int: "number", float: "number", str: "string", list: "list", dict: "object",
}  # fmt: skip

FindMedia = Callable[[str, str, Any], Path | Media]
"""(where, `image` or `audio`, value of the field) -> where the image or sound is."""


def build_sample(origin: str, number: int, given: Mapping[str, Any], find_media: FindMedia) -> Sample:
    """The sample that the fields `given` on line `number` of `origin` say; fields that are None count as left out.

    Raises:
        DataError: a field is unknown, or its value is not what it must be.
    """
    where = f"{origin} {number}"
    fields = {key: value for key, value in given.items() if value is not None}
    _check_names(where, fields)
    texts = {key: _parse_string(where, key, fields) for key in ("text", "target", "group", "split")}
    if texts["split"] not in (None, *SPLITS):
        raise line_error(where, f"split is {shorten_value(texts['split'])}", "expected 'train' or 'test'")
    return Sample(
        line=number,
        image=find_media(where, "image", fields["image"]) if "image" in fields else None,
        audio=find_media(where, "audio", fields["audio"]) if "audio" in fields else None,
        text=texts["text"],
        label=_parse_label(where, "label", fields["label"]) if "label" in fields else None,
        labels=_parse_labels(where, fields.get("labels", {})),
        target=texts["target"],
        group=texts["group"],
        split=texts["split"] or "",
        origin=origin,
    )


def line_error(where: str, found: str, expected: str) -> DataError:
    """The error of one line or row."""
    return DataError(f"{where}: {found}; {expected}")


def parse_string(where: str, key: str, value: Any) -> str:
    """A string that is not empty and can be written down.

    Raises:
        DataError: it is no such string.
    """
    if not isinstance(value, str):
        raise line_error(where, f"{key} is a {name_json_type(value)} ({shorten_value(value)})", "expected a string")
    if not value:
        raise line_error(where, f"{key} is an empty string", "give it a value or leave it out")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise line_error(where, f"{key} holds half a surrogate pair", "expected valid Unicode text") from error
    return value


def name_json_type(value: object) -> str:
    """What JSON calls the type of a value; of others Python's name."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


def shorten_value(value: object) -> str:
    """A value as an error shows it, on one line of at most 60 characters."""
    shown = repr(value).replace("\n", " ")
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _check_names(where: str, fields: Mapping[str, Any]) -> None:
    for key in fields:
        if key not in FIELDS:
            raise line_error(where, f"unknown field {shorten_value(key)}", suggest_names(str(key), FIELDS))
    if fields.keys().isdisjoint(MODALITIES):
        raise line_error(where, "no image, audio or text", "a line needs at least one of them")


def _parse_string(where: str, key: str, fields: Mapping[str, Any]) -> str | None:
    return parse_string(where, key, fields[key]) if key in fields else None


def _parse_label(where: str, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise line_error(where, f"{name} is {shorten_value(value)}", "expected a whole number from 0")
    return value


def _parse_labels(where: str, value: object) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise line_error(where, f"labels is a {name_json_type(value)}", 'expected an object such as {"image": 7}')
    return {name: _parse_label(where, f"labels.{name}", label) for name, label in value.items() if label is not None}

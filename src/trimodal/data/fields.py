"""From the fields of one line or row to a sample, every field checked. What is wrong is a DataError that says where."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trimodal.core import MODALITIES, SIGNAL, Media, Sample, TensorInputs, is_signal
from trimodal.errors import DataError, suggest_names

FIELDS = ("image", "audio", "text", SIGNAL, "mask", "label", "labels", "target", "group", "split")
SPLITS = ("train", "test")
_MAP_HINT = "; say which column is which with a map, such as --map text=sentence"
_NUMBER = re.compile(r"\s*[+-]?\d*[.,]?\d+\s*")

_JSON_NAMES = {
    type(None): "null", bool: "true/false", int: "number", float: "number", str: "string", list: "list", dict: "object",
}  # fmt: skip

FindMedia = Callable[[str, str, Any], Path | Media]
"""(where, `image`, `audio`, `mask` or a signal's field, its value) -> where the image, the sound, the mask or the numbers are."""


def build_sample(origin: str, number: int, given: Mapping[str, Any], find_media: FindMedia) -> Sample:
    """The sample that the fields `given` on line `number` of `origin` say; fields that are None count as left out.

    Raises:
        DataError: a field is unknown, or its value is not what it must be.
    """
    where = f"{origin} {number}"
    fields = {key: value for key, value in given.items() if value is not None}
    _check_names(where, fields)
    signals = {key: value for key, value in fields.items() if is_signal(key)}
    if not signals and fields.keys().isdisjoint(MODALITIES):
        raise line_error(where, "no image, audio, text or signal", f"a line needs at least one of them{_MAP_HINT}")
    return replace(
        _build_rest(origin, number, fields),
        image=find_media(where, "image", fields["image"]) if "image" in fields else None,
        audio=find_media(where, "audio", fields["audio"]) if "audio" in fields else None,
        text=_parse_string(where, "text", fields),
        mask=find_media(where, "mask", fields["mask"]) if "mask" in fields else None,
        signals={key: find_media(where, key, value) for key, value in signals.items()},
    )


def build_inputs_sample(origin: str, number: int, given: Mapping[str, Any], inputs: TensorInputs) -> Sample:
    """The sample of `inputs` with the fields `given` beside them, such as `label` and `split`.

    Raises:
        DataError: a field is unknown, or its value is not what it must be.
    """
    return replace(_build_rest(origin, number, given), inputs=inputs)


def _build_rest(origin: str, number: int, fields: Mapping[str, Any]) -> Sample:
    """A sample with all but its modalities."""
    where, name = f"{origin} {number}", parse_label_name(fields.get("label"))
    texts = {key: _parse_string(where, key, fields) for key in ("target", "group", "split")}
    if texts["split"] not in (None, *SPLITS):
        raise line_error(where, f"split is {shorten_value(texts['split'])}", "expected 'train' or 'test'")
    return Sample(
        line=number,
        label=None if name or "label" not in fields else _parse_label(where, "label", fields["label"]),
        label_name=name,
        labels=_parse_labels(where, fields.get("labels", {})),
        target=texts["target"],
        group=texts["group"],
        split=texts["split"] or "",
        origin=origin,
    )


def line_error(where: str, found: str, expected: str) -> DataError:
    """The error of one line or row."""
    return DataError(f"{where}: {found}; {expected}")


def parse_label_name(value: object) -> str | None:
    """The name of a class; None where `value` is a number, in letters too, or nothing at all."""
    return value.strip() if isinstance(value, str) and value.strip() and not _NUMBER.fullmatch(value) else None


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


def to_plain_number(value: Any) -> Any:
    """A NumPy or torch number as Python's own; a mapping with its numbers so; others as they are."""
    if isinstance(value, Mapping):
        return {key: to_plain_number(one) for key, one in value.items()}
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def shorten_value(value: object) -> str:
    """A value as an error shows it, on one line of at most 60 characters."""
    shown = repr(value).replace("\n", " ")
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _check_names(where: str, fields: Mapping[str, Any]) -> None:
    for key in fields:
        if key not in FIELDS and not is_signal(key):
            advice = f"{suggest_names(str(key), FIELDS)}{_MAP_HINT}, of {shorten_value(list(fields))}"
            raise line_error(where, f"unknown field {shorten_value(key)}", advice)


def _parse_string(where: str, key: str, fields: Mapping[str, Any]) -> str | None:
    return parse_string(where, key, fields[key]) if key in fields else None


def _parse_label(where: str, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        also = ", or a class's name" if name == "label" else ""
        raise line_error(where, f"{name} is {shorten_value(value)}", f"expected a whole number from 0{also}")
    return value


def _parse_labels(where: str, value: object) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise line_error(where, f"labels is a {name_json_type(value)}", 'expected an object such as {"image": 7}')
    return {name: _parse_label(where, f"labels.{name}", label) for name, label in value.items() if label is not None}

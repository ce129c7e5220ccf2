"""The protocol's datatypes: how each is written in numpy, in JSON and as bytes.

    BOOL U/INT8-64 FP16 FP32 FP64    as numpy's, little-endian in binary data
    BYTES                            whole strings of bytes: binary data has four bytes of length before each; JSON has UTF-8 strings
    BF16                             not taken: no runtime here reads it, and numpy has no such type
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.serving.refusals import RefusedError, refuse_bad
from trimodal.serving.strict_json import name_kind, shorten

TYPES: dict[str, str] = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object",
}  # fmt: skip
"""numpy's name of each type of the protocol."""

MOST_DIMENSIONS = 8


def name_datatype(type_: str) -> str:
    """The protocol's name of numpy's type `type_`; texts and objects are BYTES."""
    return next((name for name, known in TYPES.items() if known == type_), "BYTES")


def check_datatype(datatype: Any, tensor: str) -> str:
    """`datatype`, which must be one that is taken.

    Raises:
        RefusedError: 400.
    """
    if not isinstance(datatype, str) or datatype not in TYPES:
        raise refuse_bad(f"datatype of {shorten(tensor)!r} is not known; known are {', '.join(TYPES)}", "datatype")
    return datatype


def check_shape(shape: Any, tensor: str, most: int) -> tuple[int, ...]:
    """`shape` as a tuple of whole numbers from 1, whose product is at most `most`.

    Raises:
        RefusedError: 400; nothing is made of this size before.
    """
    if not isinstance(shape, list | tuple) or not 0 < len(shape) <= MOST_DIMENSIONS:
        raise refuse_bad(f"shape of {shorten(tensor)!r} must be an array of 1 to {MOST_DIMENSIONS} whole numbers", "shape")
    for length in shape:
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise refuse_bad(f"shape of {shorten(tensor)!r} must be whole numbers from 1", "shape")
    if prod(shape) > most:
        raise refuse_bad(f"shape of {shorten(tensor)!r} has more elements than a request may hold", "shape")
    return tuple(shape)


def read_raw(data: bytes | memoryview, datatype: str, shape: tuple[int, ...], tensor: str) -> NDArray[Any]:
    """Binary data of one tensor as an array of `shape`.

    Raises:
        RefusedError: 400, the number of bytes does not fit.
    """
    if datatype == "BYTES":
        return _as_objects(_split_strings(data, prod(shape), tensor), shape)
    type_ = np.dtype(TYPES[datatype]).newbyteorder("<")
    if len(data) != prod(shape) * type_.itemsize:
        raise refuse_bad(
            f"{shorten(tensor)!r} has {len(data):,} bytes of data; its shape and datatype need {prod(shape) * type_.itemsize:,}",
            tensor[:64],
        )
    if datatype == "BOOL" and not set(bytes(data)) <= {0, 1}:
        raise refuse_bad(f"{shorten(tensor)!r} has bytes other than 0 and 1 as BOOL", tensor[:64])
    return np.frombuffer(data, dtype=type_).reshape(shape).astype(TYPES[datatype])


def write_raw(array: NDArray[Any]) -> bytes:
    """The binary data of `array`, an array of numbers or of `bytes`."""
    if array.dtype == object:
        return b"".join(len(item).to_bytes(4, "little") + item for item in array.reshape(-1))
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def read_json_data(data: Any, datatype: str, shape: tuple[int, ...], tensor: str) -> NDArray[Any]:
    """The elements of a JSON array, flat or nested as `shape` says, as an array of it.

    Raises:
        RefusedError: 400, their number, their nesting, their kind or their range.
    """
    if datatype == "FP16":
        raise refuse_bad(f"{shorten(tensor)!r} is FP16, which has no form in JSON; send binary data", tensor[:64])
    return make_array(_flatten(data, shape, tensor), datatype, shape, tensor)


def make_array(flat: Sequence[Any], datatype: str, shape: tuple[int, ...], tensor: str) -> NDArray[Any]:
    """Elements in Python's types as an array; `flat` has as many as `shape` says.

    Raises:
        RefusedError: 400, their kind or their range.
    """
    kinds = set(map(type, flat))
    if datatype == "BYTES":
        _check_kinds(kinds, {str, bytes}, "strings", tensor)
        return _as_objects([item.encode("utf-8") if isinstance(item, str) else item for item in flat], shape)
    if datatype == "BOOL":
        _check_kinds(kinds, {bool}, "true and false", tensor)
        return np.array(flat, dtype=bool).reshape(shape)
    if datatype in ("FP16", "FP32", "FP64"):
        _check_kinds(kinds, {int, float}, "numbers", tensor)
        return _make_floats(flat, TYPES[datatype], tensor).reshape(shape)
    _check_kinds(kinds, {int}, "whole numbers", tensor)
    bounds = np.iinfo(TYPES[datatype])
    if min(flat) < bounds.min or max(flat) > bounds.max:
        raise refuse_bad(f"{shorten(tensor)!r} has a number that {datatype} does not hold", tensor[:64])
    return np.array(flat, dtype=TYPES[datatype]).reshape(shape)


def write_json_data(array: NDArray[Any], tensor: str) -> NDArray[Any] | list[str]:
    """The elements of `array` for JSON, flat and in order: numbers as an array, which orjson writes with as few digits as tell its type's
    numbers apart.

    Raises:
        RefusedError: 400, they have no form in JSON: FP16, numbers that are not finite, bytes that are no text.
    """
    if array.dtype == np.float16:
        raise refuse_bad(f"output {tensor!r} is FP16, which has no form in JSON; ask for binary data", tensor)
    if array.dtype != object:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise refuse_bad(f"output {tensor!r} has numbers that are not finite, which JSON has not; ask for binary data", tensor)
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(-1)
    try:
        return [item.decode("utf-8") for item in array.reshape(-1)]
    except UnicodeDecodeError:
        raise refuse_bad(f"output {tensor!r} has bytes that are no text; ask for binary data", tensor) from None


def _make_floats(flat: Sequence[Any], type_: str, tensor: str) -> NDArray[Any]:
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, dtype=np.float64).astype(type_)
    except OverflowError:
        array = np.array([np.inf])
    if not np.isfinite(array).all():
        raise refuse_bad(f"{shorten(tensor)!r} has a number that its datatype does not hold", tensor[:64])
    return array


def _check_kinds(kinds: set[type], taken: set[type], name: str, tensor: str) -> None:
    if not kinds <= taken:
        odd = name_kind(next(iter(kinds - taken))()) if kinds - taken - {type(None)} else "null"
        raise refuse_bad(f"data of {shorten(tensor)!r} has {_name_of(odd)}; expected {name}", tensor[:64])


def _name_of(odd: str) -> str:
    return "true or false" if odd in ("true", "false") else odd


def _flatten(data: Any, shape: tuple[int, ...], tensor: str) -> list[Any]:
    rows = data
    if not isinstance(rows, list):
        raise refuse_bad(f"data of {shorten(tensor)!r} is {name_kind(rows)}; expected an array", "data")
    if rows and isinstance(rows[0], list):
        rows = [rows]
        for length in shape:
            if not all(isinstance(row, list) and len(row) == length for row in rows):
                raise refuse_bad(f"data of {shorten(tensor)!r} is not nested as its shape says", "data")
            rows = [item for row in rows for item in row]
    if len(rows) != prod(shape):
        raise refuse_bad(f"data of {shorten(tensor)!r} has {len(rows):,} elements; its shape needs {prod(shape):,}", "data")
    return list(rows)


def _split_strings(data: bytes | memoryview, count: int, tensor: str) -> list[bytes]:
    found: list[bytes] = []
    place = 0
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "little")
        if place + 4 + length > len(data) or len(found) == count:
            raise _refuse_strings(tensor)
        found.append(bytes(data[place + 4 : place + 4 + length]))
        place += 4 + length
    if len(found) != count:
        raise _refuse_strings(tensor)
    return found


def _refuse_strings(tensor: str) -> RefusedError:
    return refuse_bad(
        f"data of {shorten(tensor)!r} must be its elements, each after four bytes of length, as many as its shape says", tensor[:64]
    )


def _as_objects(items: Sequence[bytes], shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)

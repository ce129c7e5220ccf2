"""Requests of the protocol: from bodies to checked arrays.

A body is JSON, or JSON and binary data behind it, or one tensor raw. Which of them is said by the header
`Inference-Header-Content-Length` alone: the length of the JSON, 0 for a raw tensor. `Content-Type` says nothing, since clients leave it
out, or say `application/json` of either. Lengths count bytes after decompression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.serving.limits import Limits
from trimodal.serving.open_inference.datatypes import (
    check_datatype,
    check_shape,
    name_datatype,
    read_json_data,
    read_raw,
)
from trimodal.serving.open_inference.directory import Entry, Tensor
from trimodal.serving.refusals import RefusedError, refuse_bad
from trimodal.serving.strict_json import check_keys, name_kind, read_object, shorten, take_list, take_object

MOST_ID = 1000
"""Characters of a request's `id`, which is in the answer too."""

MOST_MICROSECONDS = 2**63 - 1

_RESERVED = ("sequence_id", "sequence_start", "sequence_end", "priority", "headers")
_KNOWN = ("timeout", "binary_data_output", "top", "max_tokens", "language", "dimensions")
_INPUT, _OUTPUT = ("name", "shape", "datatype", "parameters", "data"), ("name", "parameters")


@dataclass(frozen=True)
class InferRequest:
    """A request, checked against what its name takes.

    Attributes:
        arrays: by input, shapes as sent.
        outputs: names that are asked for; none for all.
        binary: outputs that go as binary data; `binary_default` for those not named.
        seconds: that the client waits, None where it does not say.
        wishes: parameters that say how a task is done: `top`, `max_tokens`, `language`, `dimensions`.
    """

    entry: Entry
    arrays: Mapping[str, NDArray[Any]]
    id: str = ""
    outputs: tuple[str, ...] = ()
    binary: Mapping[str, bool] = field(default_factory=dict)
    binary_default: bool = False
    seconds: float | None = None
    wishes: Mapping[str, Any] = field(default_factory=dict)


def read_request(entry: Entry, body: bytes, header_length: str | None, limits: Limits) -> InferRequest:
    """The request in `body`; `header_length` is what `Inference-Header-Content-Length` says, None where it is not there.

    Raises:
        RefusedError: 400 for all that is malformed or does not fit `entry`; 413 for more than is taken.
    """
    length = _read_length(header_length, len(body))
    if length == 0 and header_length is not None:
        return _read_raw_request(entry, body, limits)
    request = read_object(body[:length], limits.json_depth)
    check_keys(request, ("id", "parameters", "inputs", "outputs", "model_name", "model_version"), "the request")
    rest = _Rest(memoryview(body)[length:])
    arrays: dict[str, NDArray[Any]] = {}
    for sent in take_list(request.get("inputs"), "inputs", 64):
        name, array = _read_input(take_object(sent, "an input"), rest, limits)
        add_array(arrays, name, array, entry)
    rest.check_empty()
    check_arrays(arrays, entry, limits)
    parameters = check_parameters(request.get("parameters", {}))
    names, binary = _read_outputs(request.get("outputs"), entry)
    return InferRequest(
        entry,
        arrays,
        check_id(request.get("id", "")),
        names,
        binary,
        parameters.pop("binary_data_output", False),
        parameters.pop("timeout", None),
        parameters,
    )


def check_id(value: Any) -> str:
    """The request's `id`.

    Raises:
        RefusedError: 400, no string, or too long.
    """
    if not isinstance(value, str) or len(value) > MOST_ID:
        raise refuse_bad(f"id must be a string of at most {MOST_ID:,} characters", "id")
    return value


def check_parameters(value: Any) -> dict[str, Any]:
    """The request's parameters; `timeout`, microseconds, as seconds.

    Raises:
        RefusedError: 400, keys that are reserved or unknown, values that are no plain value or out of range.
    """
    parameters = dict(take_object(value, "parameters"))
    for key, inner in parameters.items():
        if key in _RESERVED or key.startswith("triton_"):
            raise refuse_bad(f"parameter {shorten(key)!r} is reserved, and not taken here", "parameters")
        if isinstance(inner, dict | list) or inner is None:
            raise refuse_bad(f"parameter {shorten(key)!r} is {name_kind(inner)}; expected a string, a number, true or false", "parameters")
    check_keys(parameters, _KNOWN, "parameters")
    if "timeout" in parameters:
        parameters["timeout"] = _read_microseconds(parameters["timeout"])
    _check_bool(parameters.get("binary_data_output", False), "binary_data_output")
    return parameters


def add_array(arrays: dict[str, NDArray[Any]], name: str, array: NDArray[Any], entry: Entry) -> None:
    """Put one input to the others.

    Raises:
        RefusedError: 400, the name is unknown, or there already.
    """
    if name not in {tensor.name for tensor in entry.inputs}:
        raise refuse_bad(f"{shorten(entry.name)!r} has no input {shorten(name)!r}; it has {_name_tensors(entry.inputs)}", name[:64])
    if name in arrays:
        raise refuse_bad(f"input {shorten(name)!r} is there twice", name[:64])
    arrays[name] = array


def check_arrays(arrays: Mapping[str, NDArray[Any]], entry: Entry, limits: Limits) -> None:
    """Types, shapes and the number of samples, against what `entry` takes.

    Raises:
        RefusedError: 400; 413 for too many samples.
    """
    missing = [tensor.name for tensor in entry.inputs if tensor.name not in arrays and not tensor.optional]
    if missing or not arrays:
        raise refuse_bad(f"input {', '.join(missing) or _name_tensors(entry.inputs)} is missing", missing[0] if missing else "inputs")
    samples = set()
    for tensor in entry.inputs:
        if tensor.name in arrays:
            _check_tensor(arrays[tensor.name], tensor, entry)
            if tensor.shape and tensor.shape[0] == -1 and not (entry.task and tensor.name == "labels"):
                samples.add(arrays[tensor.name].shape[0])
    if len(samples) > 1:
        raise refuse_bad(f"inputs have different numbers of samples: {', '.join(map(str, sorted(samples)))}", "inputs")
    if samples and max(samples) > limits.items:
        raise RefusedError(413, f"{max(samples):,} samples in one request; at most {limits.items:,} are taken", field="inputs")


def check_output(name: Any, seen: tuple[str, ...] | list[str], entry: Entry) -> str:
    """The name of an output that is asked for.

    Raises:
        RefusedError: 400, no string, unknown, or asked for twice.
    """
    if not isinstance(name, str) or name not in {tensor.name for tensor in entry.outputs}:
        raise refuse_bad(f"{shorten(entry.name)!r} has no such output; it has {_name_tensors(entry.outputs)}", "outputs")
    if name in seen:
        raise refuse_bad(f"output {name!r} is asked for twice", "outputs")
    return name


class _Rest:
    """Binary data that has not been read yet."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def take(self, size: Any, tensor: str) -> memoryview:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(self.data):
            raise refuse_bad(
                f"binary_data_size of {shorten(tensor)!r} must be a whole number within the {len(self.data):,} bytes that are left",
                "binary_data_size",
            )
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def check_empty(self) -> None:
        if len(self.data):
            raise refuse_bad(f"{len(self.data):,} bytes of the body belong to no input")


def _read_length(header_length: str | None, size: int) -> int:
    if header_length is None:
        return size
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) <= 20 and int(header_length) <= size):
        raise refuse_bad(
            f"Inference-Header-Content-Length must be a whole number of at most {size:,}, the length of the body",
            "Inference-Header-Content-Length",
        )
    return int(header_length)


def _read_raw_request(entry: Entry, body: bytes, limits: Limits) -> InferRequest:
    """The body is the one input's data, for one sample; of BYTES, one element."""
    if len(entry.inputs) != 1:
        raise refuse_bad(f"a raw body is for names with one input; {shorten(entry.name)!r} has {_name_tensors(entry.inputs)}", "inputs")
    (tensor,) = entry.inputs
    if not body:
        raise refuse_bad("the body is empty")
    if tensor.datatype == "BYTES":
        array = np.empty(1, dtype=object)
        array[0] = body
    else:
        shape = (1 if tensor.shape[:1] == (-1,) else tensor.shape[0], *tensor.shape[1:])
        if -1 in shape:
            raise refuse_bad(f"a raw body has no shape, and input {tensor.name!r} has lengths that vary", tensor.name)
        array = read_raw(body, tensor.datatype, shape, tensor.name)
    arrays = {tensor.name: array}
    check_arrays(arrays, entry, limits)
    return InferRequest(entry, arrays, binary_default=True)


def _read_input(sent: dict[str, Any], rest: _Rest, limits: Limits) -> tuple[str, NDArray[Any]]:
    check_keys(sent, _INPUT, "an input")
    name = sent.get("name")
    if not isinstance(name, str):
        raise refuse_bad("an input has no name", "name")
    datatype = check_datatype(sent.get("datatype"), name)
    shape = check_shape(sent.get("shape"), name, limits.body_bytes)
    parameters = take_object(sent.get("parameters", {}), "parameters of an input")
    check_keys(parameters, ("binary_data_size",), "parameters of an input")
    if "binary_data_size" in parameters:
        if "data" in sent:
            raise refuse_bad(f"input {shorten(name)!r} has both data and binary_data_size", name[:64])
        return name, read_raw(rest.take(parameters["binary_data_size"], name), datatype, shape, name)
    if "data" not in sent:
        raise refuse_bad(f"input {shorten(name)!r} has no data", name[:64])
    return name, read_json_data(sent["data"], datatype, shape, name)


def _read_outputs(value: Any, entry: Entry) -> tuple[tuple[str, ...], dict[str, bool]]:
    names: list[str] = []
    binary: dict[str, bool] = {}
    for wish in take_list(value, "outputs", 64) if value not in (None, []) else []:
        wish = take_object(wish, "an output")
        check_keys(wish, _OUTPUT, "an output")
        name = check_output(wish.get("name"), names, entry)
        parameters = take_object(wish.get("parameters", {}), "parameters of an output")
        check_keys(parameters, ("binary_data",), "parameters of an output")
        names.append(name)
        if "binary_data" in parameters:
            binary[name] = _check_bool(parameters["binary_data"], "binary_data")
    return tuple(names), binary


def _check_tensor(array: NDArray[Any], tensor: Tensor, entry: Entry) -> None:
    from_type = name_datatype(array.dtype.name)
    if from_type != tensor.datatype:
        raise refuse_bad(f"input {tensor.name!r} is {from_type}; expected {tensor.datatype}", tensor.name)
    shape = array.shape
    if entry.task and len(shape) == 2 and shape[1] == 1:
        shape = shape[:1]
    if len(shape) != len(tensor.shape) or any(known not in (-1, length) for known, length in zip(tensor.shape, shape)):
        raise refuse_bad(
            f"input {tensor.name!r} has the shape {list(array.shape)}; expected {list(tensor.shape)}, where -1 is any length", tensor.name
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise refuse_bad(f"input {tensor.name!r} has numbers that are not finite", tensor.name)


def _read_microseconds(value: Any) -> float:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST_MICROSECONDS:
        raise refuse_bad("timeout must be a whole number of microseconds from 1", "timeout")
    return value / 1e6


def _check_bool(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise refuse_bad(f"{name} is {name_kind(value)}; expected true or false", name)
    return value


def _name_tensors(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(tensor.name for tensor in tensors)

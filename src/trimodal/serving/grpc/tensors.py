"""Tensors in messages: raw contents or typed ones on the way in, raw ones on the way out, as Triton's client reads only those."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from trimodal.serving.grpc.messages import MESSAGES
from trimodal.serving.limits import Limits
from trimodal.serving.open_inference.calls import InferResponse
from trimodal.serving.open_inference.datatypes import (
    check_datatype,
    check_shape,
    make_array,
    name_datatype,
    read_raw,
    write_raw,
)
from trimodal.serving.open_inference.directory import Entry
from trimodal.serving.open_inference.requests import (
    InferRequest,
    add_array,
    check_arrays,
    check_id,
    check_output,
    check_parameters,
)
from trimodal.serving.refusals import refuse_bad
from trimodal.serving.strict_json import check_keys, shorten

_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def read_message(entry: Entry, message: Any, limits: Limits, seconds: float | None) -> InferRequest:
    """The request in a `ModelInferRequest`; `seconds` is the call's own deadline, of which and the parameter `timeout` the shorter holds.

    Raises:
        RefusedError: 400 for all that is malformed or does not fit `entry`; 413 for too many samples.
    """
    raw = list(message.raw_input_contents)
    if raw and len(raw) != len(message.inputs):
        raise refuse_bad(f"raw_input_contents has {len(raw)} elements for {len(message.inputs)} inputs", "raw_input_contents")
    arrays: dict[str, NDArray[Any]] = {}
    for place, tensor in enumerate(message.inputs):
        add_array(arrays, tensor.name, _read_tensor(tensor, raw[place] if raw else None, limits), entry)
    check_arrays(arrays, entry, limits)
    parameters = check_parameters(_read_parameters(message.parameters))
    parameters.pop("binary_data_output", None)
    names: list[str] = []
    for output in message.outputs:
        check_keys(_read_parameters(output.parameters), ("binary_data",), "parameters of an output")
        names.append(check_output(output.name, names, entry))
    waits = [wait for wait in (seconds, parameters.pop("timeout", None)) if wait is not None]
    return InferRequest(entry, arrays, check_id(message.id), tuple(names), seconds=min(waits, default=None), wishes=parameters)


def write_message(response: InferResponse) -> Any:
    """The `ModelInferResponse` of `response`."""
    request = response.request
    message = MESSAGES["ModelInferResponse"](model_name=request.entry.name, model_version=request.entry.card.version, id=request.id)
    for name, array in response.tensors.items():
        message.outputs.add(name=name, datatype=name_datatype(array.dtype.name), shape=array.shape)
        message.raw_output_contents.append(write_raw(array))
    return message


def _read_tensor(tensor: Any, raw: bytes | None, limits: Limits) -> NDArray[Any]:
    datatype = check_datatype(tensor.datatype, tensor.name)
    shape = check_shape(list(tensor.shape), tensor.name, limits.body_bytes)
    said = _read_parameters(tensor.parameters)
    check_keys(said, ("binary_data_size",), "parameters of an input")  # KServe's client says it here too
    if said and said["binary_data_size"] != len(raw or b""):
        raise refuse_bad(f"input {shorten(tensor.name)!r} has another length than its binary_data_size", tensor.name[:64])
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    if raw is not None:
        if filled:
            raise refuse_bad(f"input {shorten(tensor.name)!r} has both raw and typed contents", tensor.name[:64])
        return read_raw(raw, datatype, shape, tensor.name)
    field = _CONTENTS.get(datatype)
    if field is None or filled not in ([], [field]):
        raise refuse_bad(
            f"input {shorten(tensor.name)!r}: contents of {datatype} go {f'in {field}' if field else 'raw'} alone", tensor.name[:64]
        )
    flat = list(getattr(tensor.contents, field))
    if len(flat) != _count(shape):
        raise refuse_bad(f"input {shorten(tensor.name)!r} has {len(flat):,} elements; its shape needs {_count(shape):,}", tensor.name[:64])
    return make_array(flat, datatype, shape, tensor.name)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _read_parameters(parameters: Any) -> dict[str, Any]:
    return {key: getattr(value, chosen) if (chosen := value.WhichOneof("parameter_choice")) else None for key, value in parameters.items()}

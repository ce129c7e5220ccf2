"""Answers of the protocol: from arrays to a body of JSON, or of JSON and binary data behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from trimodal.serving.open_inference.calls import InferResponse
from trimodal.serving.open_inference.datatypes import name_datatype, write_json_data, write_raw


@dataclass(frozen=True)
class ResponseBody:
    """The bytes of an answer; `header_length` is the length of the JSON where binary data follows, else None."""

    data: bytes
    header_length: int | None


def write_response(response: InferResponse) -> ResponseBody:
    """The body of `response`, with binary data for the outputs for which it was asked.

    Raises:
        RefusedError: 400, an output has no form in JSON.
    """
    request, outputs, binary = response.request, [], []
    for name, array in response.tensors.items():
        told: dict[str, Any] = {"name": name, "datatype": name_datatype(array.dtype.name), "shape": list(array.shape)}
        if request.binary.get(name, request.binary_default):
            binary.append(write_raw(array))
            told["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            told["data"] = write_json_data(array, name)
        outputs.append(told)
    answer: dict[str, Any] = {"model_name": request.entry.name, "model_version": request.entry.card.version}
    if request.id:
        answer["id"] = request.id
    head = orjson.dumps({**answer, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return ResponseBody(b"".join([head, *binary]), len(head) if binary else None)

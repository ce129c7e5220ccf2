"""Row 31: what a client of gRPC can send wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.serving.bad_inputs.cases import Case, Found, Place, Row
from benchmarks.serving.bad_inputs.good import SUM, TENSORS

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_SIZES = (12, 3, 3, 3)


def list_rows() -> list[Row]:
    """The row."""
    invalid = ("INVALID_ARGUMENT",)
    cases = {
        "both raw and typed": (lambda sent: sent.inputs[0].contents.fp32_contents.extend([1.0, 2.0, 3.0]), invalid),
        "one raw tensor too few": (lambda sent: sent.raw_input_contents.pop(), invalid),
        "one too many": (lambda sent: sent.raw_input_contents.append(b"abc"), invalid),
        "none": (lambda sent: sent.ClearField("raw_input_contents"), invalid),
        "a short one": (lambda sent: sent.raw_input_contents.__setitem__(0, b"abc"), invalid),
        "a shape that overflows": (lambda sent: sent.inputs[0].shape.__setitem__(slice(0, 2), [2**62, 2**62]), invalid),
        "a negative shape": (lambda sent: sent.inputs[0].shape.__setitem__(0, -1), invalid),
        "an unknown datatype": (lambda sent: setattr(sent.inputs[0], "datatype", "BF16"), invalid),
        "a name twice": (lambda sent: setattr(sent.inputs[1], "name", "floats"), invalid),
        "an unknown model": (lambda sent: setattr(sent, "model_name", "../nobody"), ("NOT_FOUND",)),
        "an id of 1 MB": (lambda sent: setattr(sent, "id", "x" * (1 << 20)), invalid),
        "a reserved parameter": (lambda sent: setattr(sent.parameters["sequence_id"], "int64_param", 1), invalid),
        "above the largest message": (lambda sent: sent.raw_input_contents.__setitem__(0, bytes(65 << 20)), ("RESOURCE_EXHAUSTED",)),
    }  # fmt: skip
    tried = [Case(label, attempt=_call(change, codes)) for label, (change, codes) in cases.items()]
    raw = [Case(label, attempt=_send(data, codes)) for label, data, codes in (
        ("no message at all", b"\xff" * 100, ("INVALID_ARGUMENT", "INTERNAL")),
        ("a length beyond the end", b"\x0a\xff\x7f", ("INVALID_ARGUMENT",)),
        ("Any in Any, 10,000 deep", _nest(10_000), ("INVALID_ARGUMENT",)),
    )]  # fmt: skip
    return [Row(31, "gRPC: too large, deep, raw and typed, a wrong count", "INVALID_ARGUMENT / RESOURCE_EXHAUSTED", [*tried, *raw])]


def _make() -> Any:
    from trimodal.serving.grpc.messages import MESSAGES

    sent = MESSAGES["ModelInferRequest"](model_name="tensors.add")
    for tensor in TENSORS:
        sent.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
    sent.raw_input_contents.extend(bytes(size) for size in _SIZES)
    return sent


def _call(change: Callable[[Any], Any], codes: tuple[str, ...]) -> Callable[[Place], Found]:
    def attempt(place: Place) -> Found:
        sent = _make()
        change(sent)
        return _ask(place.grpc_port, sent.SerializeToString(), codes)

    return attempt


def _send(data: bytes, codes: tuple[str, ...]) -> Callable[[Place], Found]:
    return lambda place: _ask(place.grpc_port, data, codes)


def _ask(port: int, data: bytes, codes: tuple[str, ...]) -> Found:
    import grpc

    from trimodal.serving.grpc.messages import MESSAGES

    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary(_METHOD, lambda one: one, MESSAGES["ModelInferResponse"].FromString)
        try:
            call(data, timeout=30)
            found, words = "OK", ""
        except grpc.RpcError as refused:
            found, words = refused.code().name, str(refused.details())
        good = call(_make_good(), timeout=30)
    if list(_floats(good.raw_output_contents[0])) != SUM:
        return Found(found, "then a good call got another answer")
    return Found(found, "" if found in codes and "/" not in words.replace("../nobody", "") else f"{found}: {words[:150]}")


def _make_good() -> bytes:
    import numpy as np

    sent = _make()
    for place, (tensor, kind) in enumerate(zip(TENSORS, ("<f4", "i1", "u1", "?"))):
        sent.raw_input_contents[place] = np.array(tensor["data"], kind).tobytes()
    return bytes(sent.SerializeToString())


def _floats(data: bytes) -> list[float]:
    import numpy as np

    return [float(number) for number in np.frombuffer(data, "<f4")]


def _nest(depth: int) -> bytes:
    """A message whose unknown field 99 holds a message with field 99, and so on: groups, which a parser must descend into."""
    return b"\x9b\x06" * depth + b"\x9c\x06" * depth

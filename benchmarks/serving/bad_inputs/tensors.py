"""Rows 13 to 30 and 32: requests of the Open Inference Protocol over HTTP."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.serving.bad_inputs.cases import Case, Row, find_leak, post_json
from benchmarks.serving.bad_inputs.good import ADD, TENSORS
from benchmarks.serving.bad_inputs.sockets import Reply, make_request

HEADER = "Inference-Header-Content-Length"


def list_rows() -> list[Row]:
    """The rows."""
    return [*_list_texts(), *_list_shapes(), *_list_names(), *_list_binary(), *_list_rest()]


def change(place: int = 0, **changes: Any) -> dict[str, Any]:
    """A good request with one tensor changed; `...` leaves a field out."""
    inputs = [dict(tensor) for tensor in TENSORS]
    inputs[place] = {key: value for key, value in {**inputs[place], **changes}.items() if value is not ...}
    return {"inputs": inputs}


def _case(label: str, sent: Any, *allowed: int, **more: Any) -> Case:
    return Case(label, post_json(ADD, sent), allowed or (400,), **more)


def _whole(**changes: Any) -> dict[str, Any]:
    return {"inputs": TENSORS, **changes}


def _list_texts() -> list[Row]:
    def nested(depth: int) -> str:
        return '{"inputs": ' + "[" * depth + "]" * depth + "}"

    twice = json.dumps(_whole())[:-1] + ', "inputs": []}'
    return [
        Row(13, "no JSON, nothing, an array, no inputs", "400 + error", [
            _case("no JSON", b"{"), _case("nothing", b""), _case("an array", b"[]"), _case("no inputs", b"{}"),
            _case("inputs null", b'{"inputs": null}'), _case("inputs empty", b'{"inputs": []}'), _case("a number", b"1"),
            _case("two values", b"{} {}"), _case("inputs are numbers", b'{"inputs": [1]}'), _case("a byte order mark", b"\xef\xbb\xbf{}"),
        ]),
        Row(14, "no UTF-8; half a surrogate pair; NUL", "400", [
            _case("no UTF-8", b'{"id": "\xff\xfe"}'), _case("half a pair", b'{"id": "\\ud800"}'), _case("NUL", b'{"id": "a\\u0000"}'),
            _case("a raw NUL", b'{"id": "a\0"}'), _case("UTF-16", '{"inputs": []}'.encode("utf-16")),
            _case("half a pair in a key", b'{"\\udfff": 1}'), _case("overlong", b'{"id": "\xc0\x80"}'),
        ]),
        Row(15, "5,000 and 100,000 arrays in each other", "400", [
            _case("5,000", nested(5_000)), _case("100,000", nested(100_000)), _case("100,000 that open", b"[" * 100_000),
            _case("100,000 objects", b'{"a":' * 100_000), _case("33", nested(33)),
        ]),
        Row(16, "a key twice", "400", [
            _case("inputs", twice), _case("in a tensor", b'{"inputs": [{"name": "a", "name": "b"}]}'),
            _case("written otherwise", b'{"inputs": [], "\\u0069nputs": []}'),
        ]),
        Row(17, "NaN, Infinity, 1e999", "400 (or documented)", [
            *(_case(word, b'{"inputs": [' + word.encode() + b"]}") for word in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999")),
            _case("NaN as data", json.dumps(change(data=[1, float("nan"), 2]))), _case("1e39 in FP32", change(data=[1, 1e39, 2])),
            _case("an integer of 5,000 digits", b'{"inputs": [' + b"9" * 5000 + b"]}"),
        ]),
    ]  # fmt: skip


def _list_shapes() -> list[Row]:
    return [
        Row(18, "a negative, broken or > 2^64 dimension", "400", [
            _case(str(shape), change(shape=shape))
            for shape in ([-1, 3], [1.0, 3], [2**65, 3], [1, -3], [True, 3], ["1", 3], [None, 3], [0.5, 3], [1, 2**64])
        ]),
        Row(19, "a product that overflows; 10^18", "400, nothing allocated", [
            _case(str(shape), change(shape=shape), declared=True)
            for shape in ([2**32, 2**32], [10**18, 3], [2**62, 2, 2], [2**31, 2**31, 4], [2**63 - 1, 3])
        ]),
        Row(20, "more or fewer elements than the shape; ragged", "400", [
            _case("too few", change(data=[1, 2])), _case("too many", change(data=[1, 2, 3, 4])),
            _case("ragged", change(data=[[1, 2], [3]])),
            _case("turned", change(data=[[1], [2], [3]])), _case("too deep", change(data=[[[1, 2, 3]]])), _case("none", change(data=[])),
            _case("null", change(data=None)), _case("missing", change(data=...)), _case("a text", change(data="123")),
        ]),
        Row(21, "a dimension of 0", "400 or documented", [
            _case("no samples", change(shape=[0, 3], data=[])), _case("no columns", change(shape=[1, 0], data=[])),
            _case("all of no samples", {"inputs": [{**tensor, "shape": [0, 3], "data": []} for tensor in TENSORS]}),
        ]),
        Row(22, "an unknown datatype; values of another one", "400", [
            *(_case(str(kind), change(datatype=kind)) for kind in ("INT128", "fp32", "BF16", ["FP32"], None, "", "FP16", "INT64", "BYTES")),
            *(_case(f"{value!r} in FP32", change(data=[1, 2, value])) for value in ("3", None, True, {}, [], 10**400)),
            *(_case(f"{value!r} in INT8", change(1, data=[1, 2, value])) for value in (1.5, 128, -129, 2**63, "1", True, None)),
            *(_case(f"{value!r} in UINT8", change(2, data=[1, 2, value])) for value in (300, -1, 0.5, 1e3)),
            *(_case(f"{value!r} in BOOL", change(3, data=[True, True, value])) for value in (2, "true", None, 0.5)),
        ]),
    ]  # fmt: skip


def _list_names() -> list[Row]:
    extra = {"name": "more", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    many = {"inputs": [{**tensor, "shape": [1000, 3], "data": tensor["data"] * 1000} for tensor in TENSORS]}
    return [
        Row(23, "an input's name wrong, one too many, one twice", "400", [
            _case("wrong", change(name="c")), _case("twice", change(name="small")), _case("missing", change(name=...)),
            _case("a number", change(name=3)), _case("one too many", {"inputs": [*TENSORS, extra]}),
            _case("one too few", {"inputs": TENSORS[:3]}), _case("the same twice", {"inputs": [*TENSORS, TENSORS[0]]}),
            _case("65 inputs", {"inputs": [extra] * 65}, 413),
        ], "413 for more inputs than are taken"),
        Row(24, "a requested output that is unknown, or twice", "400", [
            _case("unknown", _whole(outputs=[{"name": "c"}])), _case("twice", _whole(outputs=[{"name": "sum"}] * 2)),
            _case("texts", _whole(outputs=["sum"])), _case("a text", _whole(outputs="sum")),
            _case("classification", _whole(outputs=[{"name": "sum", "parameters": {"classification": 2}}])),
        ]),
        Row(25, "a batch above the most; inputs with different batches", "400 or split", [
            _case("1,000 samples", many, 413), _case("they differ", change(shape=[2, 3], data=[1] * 6)),
        ], "413 for too many: more than is taken is 413 everywhere"),
        Row(30, "names with .., %2f, NUL, 9,000 characters", "404, never a path", [
            Case(name[:20], make_request(f"/v2/models/{name}/infer", post_json("/", _whole()).partition(b"\r\n\r\n")[2]), (404, 405))
            for name in (
                "..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "a%00b", "x" * 9000, "tensors.add%0a", "tensors.add/versions/9",
                "tensors.add/versions/..%2f1", "TENSORS.ADD", "tensors.", "tensors.text", "%ff%fe", "....//", "C:%5c",
            )
        ]),
    ]  # fmt: skip


def _binary(sizes: list[Any], data: bytes, length: object = None) -> bytes:
    """Binary tensors behind the JSON; `length` in place of the header's true value."""
    inputs = []
    for tensor, size in zip(TENSORS, sizes):
        inputs.append({**{key: value for key, value in tensor.items() if key != "data"}, "parameters": {"binary_data_size": size}})
    head = json.dumps({"inputs": inputs}).encode()
    return make_request(ADD, head + data, {HEADER: str(len(head) if length is None else length)})


def _list_binary() -> list[Row]:
    data = bytes(12 + 3 + 3 + 3)

    def strings(content: bytes, count: int = 1) -> bytes:
        said = {"name": "image", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": len(content)}}
        head = json.dumps({"inputs": [said]}).encode()
        return make_request("/v2/models/clip.embed/infer", head + content, {HEADER: str(len(head))})

    return [
        Row(26, "a header length that is none, or beyond the body", "400", [
            Case(str(length) or "empty", _binary([12, 3, 3, 3], data, length))
            for length in (100_000, -1, 2**70, "x", "", "1.0", "1_0", "+5", "5 5", "0x10")
        ]),
        Row(27, "binary_data_size short, long, negative; BYTES past the buffer", "400", [
            *(Case(str(sizes), _binary(sizes, data)) for sizes in (
                [12, 3, 3, 4], [12, 3, 3, 2], [11, 4, 3, 3], [-1, 3, 3, 3], [12, 3, 3, 2**40], [12.0, 3, 3, 3], [True, 3, 3, 3],
                ["12", 3, 3, 3], [0, 3, 3, 3], [2**70, 3, 3, 3], [None, 3, 3, 3],
            )),
            *(Case(f"BYTES {content[:6]!r}", strings(content, count)) for content, count in (
                (b"\xff\xff\xff\x7fa", 1), (b"\xff\xff\xff\xffa", 1), (b"\x02\0\0\0a", 1), (b"\x01\0\0\0a\x01\0\0\0b", 1),
                (b"\x01\0\0\0a", 2), (b"", 1), (b"\x01\0", 1),
            )),
        ]),
    ]  # fmt: skip


def _list_rest() -> list[Row]:
    def bounded(reply: Reply) -> str:
        return find_leak(reply) or ("" if len(reply.body) < 1000 else f"{len(reply.body)} bytes of error")

    wrong = {"inputs": [{"name": "x" * 5000, "what": place, "shape": ["y"] * 50} for place in range(60)]}
    return [
        Row(28, "reserved parameters, nested ones", "400", [
            *(_case(key, _whole(parameters={key: 1})) for key in ("sequence_id", "sequence_start", "priority", "headers", "triton_x",
            "what")),
            _case("nested", _whole(parameters={"timeout": {"a": 1}})), _case("a list", _whole(parameters=[])),
            _case("shared memory", change(parameters={"shared_memory_region": "a"}, data=...)),
            _case("both data", change(parameters={"binary_data_size": 0})),
        ]),
        Row(29, "thousands of faults in one request", "a short error", [
            _case("60 inputs of 50 faults", wrong, check=bounded),
            _case("100,000 unknown keys", {str(n): n for n in range(100_000)}, check=bounded),
            _case("100,000 wrong values", change(data=["x"] * 100_000), check=bounded),
        ]),
        Row(32, "a timeout of 0, negative, 2^63", "400", [
            _case(repr(value), _whole(parameters={"timeout": value})) for value in (0, -1, 2**63, "1", 0.5, True, None)
        ]),
    ]  # fmt: skip

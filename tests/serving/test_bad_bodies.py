"""Bad tensors, bad JSON, bad binary data, bad forms: each gets its status and words, and the next good request is answered rightly."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fake_service import FakeService
from loopback import Served

HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url) as one:
        yield one


@pytest.fixture(autouse=True)
def alive(client: httpx.Client, fake: FakeService) -> Iterator[None]:
    yield
    answer = client.post("/v2/models/adder/infer", content=json.dumps(make_request()))
    assert answer.status_code == 200 and answer.json()["outputs"][0]["data"] == [2, 4, 6]


def make_request(tensor: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A good request; `tensor` changes its first input, `changes` the whole."""
    inputs = [{"name": name, "datatype": "INT64", "shape": [1, 3], "data": [1, 2, 3]} for name in ("a", "b")]
    inputs[0] = {key: value for key, value in {**inputs[0], **(tensor or {})}.items() if value is not ...}
    return {"inputs": inputs, **changes}


def _float(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5], **changes}]}


BAD = {
    "empty": b"",
    "no JSON": b"{",
    "an array": b"[]",
    "no inputs": b"{}",
    "inputs null": b'{"inputs": null}',
    "inputs empty": b'{"inputs": []}',
    "not UTF-8": b'{"inputs": "\xff"}',
    "half a pair": b'{"id": "\\ud800"}',
    "NUL": b'{"id": "a\\u0000"}',
    "deep": b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "very deep": b"[" * 100_000,
    "twice": b'{"inputs": [], "inputs": []}',
    "NaN": b'{"inputs": NaN}',
    "1e999": b'{"inputs": [1e999]}',
    "inputs are numbers": b'{"inputs": [1]}',
    "unknown field": make_request(what=1),
    "id a number": make_request(id=1),
    "id long": make_request(id="x" * 1_000_000),
    "shape negative": make_request({"shape": [-1, 3]}),
    "shape fraction": make_request({"shape": [1.0, 3]}),
    "shape huge": make_request({"shape": [2**65, 3]}),
    "shape product": make_request({"shape": [2**32, 2**32]}),
    "shape 10^18": make_request({"shape": [10**18, 3]}),
    "shape zero": make_request({"shape": [0, 3], "data": []}),
    "shape true": make_request({"shape": [True, 3]}),
    "shape text": make_request({"shape": "1,3"}),
    "shape empty": make_request({"shape": []}),
    "shape missing": make_request({"shape": ...}),
    "rank": make_request({"shape": [3]}),
    "fixed length": make_request({"shape": [1, 2], "data": [1, 2]}),
    "too few": make_request({"data": [1, 2]}),
    "too many": make_request({"data": [1, 2, 3, 4]}),
    "ragged": make_request({"data": [[1, 2], [3]]}),
    "nested otherwise": make_request({"data": [[1], [2], [3]]}),
    "nested deeper": make_request({"data": [[[1, 2, 3]]]}),
    "data null": make_request({"data": None}),
    "data missing": make_request({"data": ...}),
    "data a text": make_request({"data": "123"}),
    "datatype unknown": make_request({"datatype": "INT128"}),
    "datatype small": make_request({"datatype": "int64"}),
    "datatype a list": make_request({"datatype": ["INT64"]}),
    "datatype other": make_request({"datatype": "INT32"}),
    "BF16": make_request({"datatype": "BF16"}),
    "text": make_request({"data": [1, 2, "3"]}),
    "null": make_request({"data": [1, 2, None]}),
    "true": make_request({"data": [1, 2, True]}),
    "1.5 in INT64": make_request({"data": [1, 2, 1.5]}),
    "2^63 in INT64": make_request({"data": [1, 2, 2**63]}),
    "300 in UINT8": make_request({"datatype": "UINT8", "data": [1, 2, 300]}),
    "object": make_request({"data": [1, 2, {}]}),
    "text in FP32": _float(data=[1, "2"]),
    "null in FP32": _float(data=[1, None]),
    "true in FP32": _float(data=[1, True]),
    "1e39 in FP32": _float(data=[1, 1e39]),
    "10^400 in FP32": _float(data=[1, 10**400]),
    "FP16 in JSON": _float(datatype="FP16"),
    "name unknown": make_request({"name": "c"}),
    "name twice": make_request({"name": "b"}),
    "name missing": make_request({"name": ...}),
    "name a number": make_request({"name": 3}),
    "input missing": {"inputs": make_request()["inputs"][:1]},
    "input extra": {"inputs": [*make_request()["inputs"], {"name": "c", "datatype": "INT64", "shape": [1, 3], "data": [1, 2, 3]}]},
    "batches differ": make_request({"shape": [2, 3], "data": [1] * 6}),
    "output unknown": make_request(outputs=[{"name": "c"}]),
    "output twice": make_request(outputs=[{"name": "sum"}, {"name": "sum"}]),
    "output a text": make_request(outputs=["sum"]),
    "outputs a text": make_request(outputs="sum"),
    "classification": make_request(outputs=[{"name": "sum", "parameters": {"classification": 2}}]),
    "reserved": make_request(parameters={"sequence_id": 1}),
    "priority": make_request(parameters={"priority": 1}),
    "triton_": make_request(parameters={"triton_x": 1}),
    "nested parameter": make_request(parameters={"timeout": {"a": 1}}),
    "unknown parameter": make_request(parameters={"what": 1}),
    "parameters a list": make_request(parameters=[]),
    "timeout 0": make_request(parameters={"timeout": 0}),
    "timeout negative": make_request(parameters={"timeout": -1}),
    "timeout 2^63": make_request(parameters={"timeout": 2**63}),
    "timeout a text": make_request(parameters={"timeout": "1"}),
    "timeout fraction": make_request(parameters={"timeout": 0.5}),
    "shared memory": make_request({"parameters": {"shared_memory_region": "a"}, "data": ...}),
    "binary without": make_request({"parameters": {"binary_data_size": 24}, "data": ...}),
    "both": make_request({"parameters": {"binary_data_size": 0}}),
    "binary_data a text": make_request(outputs=[{"name": "sum", "parameters": {"binary_data": "yes"}}]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_400(client: httpx.Client, case: str) -> None:
    body, name = BAD[case], "pair.vision" if "FP" in case else "adder"
    answer = client.post(f"/v2/models/{name}/infer", content=body if isinstance(body, bytes) else json.dumps(body))
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"] and len(answer.content) < 1000


def test_too_many_samples(client: httpx.Client) -> None:
    answer = client.post("/v2/models/adder/infer", content=json.dumps(make_request({"shape": [1000, 3], "data": [1] * 3000})))
    assert answer.status_code == 400 and "different" in answer.text
    many = {"inputs": [{**tensor, "shape": [1000, 3], "data": [1] * 3000} for tensor in make_request()["inputs"]]}
    assert client.post("/v2/models/adder/infer", content=json.dumps(many)).status_code == 413


def test_a_thousand_faults_get_one_short_answer(client: httpx.Client) -> None:
    answer = client.post("/v2/models/adder/infer", content=json.dumps({"inputs": [{"name": "x" * 5000, "what": i} for i in range(60)]}))
    assert answer.status_code == 400 and len(answer.content) < 1000


def _binary(head: dict[str, Any], data: bytes) -> tuple[bytes, str]:
    text = json.dumps(head).encode()
    return text + data, str(len(text))


def _with_binary(*sizes: Any) -> dict[str, Any]:
    head = make_request()
    for tensor, size in zip(head["inputs"], sizes):
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": size}
    return head


@pytest.mark.parametrize(
    ("sizes", "data"),
    [
        ((24, 24), 47),
        ((24, 24), 49),
        ((23, 25), 48),
        ((-1, 24), 24),
        ((24, 2**40), 48),
        ((24.0, 24), 48),
        ((True, 24), 25),
        (("24", 24), 48),
        ((0, 24), 24),
    ],
)
def test_bad_binary_sizes(client: httpx.Client, sizes: tuple[Any, ...], data: int) -> None:
    body, length = _binary(_with_binary(*sizes), bytes(data))
    assert client.post("/v2/models/adder/infer", content=body, headers={HEADER: length}).status_code == 400


@pytest.mark.parametrize("length", ["100000", "-1", str(2**70), "x", "", "1.0", "1_0", "٣", "+5"])
def test_bad_header_lengths(client: httpx.Client, length: str) -> None:
    body, _ = _binary(_with_binary(24, 24), bytes(48))
    answer = client.post("/v2/models/adder/infer", content=body, headers={HEADER: length.encode()})
    assert answer.status_code == 400


def _strings(data: bytes, count: int = 1) -> tuple[bytes, str]:
    return _binary(
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": len(data)}}]}, data
    )


@pytest.mark.parametrize(
    ("data", "count"),
    [(b"\xff\xff\xff\x7fa", 1), (b"\x02\0\0\0a", 1), (b"\x01\0\0\0a\x01\0\0\0b", 1), (b"\x01\0\0\0a", 2), (b"", 1), (b"\x01\0", 1)],
)
def test_bad_strings(client: httpx.Client, data: bytes, count: int) -> None:
    body, length = _strings(data, count)
    assert client.post("/v2/models/pair/infer", content=body, headers={HEADER: length}).status_code == 400


def test_texts_in_bytes_are_utf8(client: httpx.Client) -> None:
    for text in (b"\xff", b"a\0"):
        data = len(text).to_bytes(4, "little") + text
        body, length = _binary(
            {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}]}, data
        )
        assert client.post("/v2/models/pair/infer", content=body, headers={HEADER: length}).status_code == 400


def test_numbers_that_are_not_finite_are_refused_in_binary_data_too(client: httpx.Client) -> None:
    for bits in (b"\0\0\xc0\x7f", b"\0\0\x80\x7f"):
        head = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]}
        body, length = _binary(head, bits + bytes(4))
        answer = client.post("/v2/models/pair.vision/infer", content=body, headers={HEADER: length})
        assert answer.status_code == 400 and "finite" in answer.text


def test_a_raw_body_is_one_file(client: httpx.Client, fake: FakeService) -> None:
    answer = client.post("/v2/models/speech/infer", content=b"RIFF", headers={HEADER: "0"})
    assert answer.status_code == 200 and answer.content.endswith(b"transcribe:  4")
    assert client.post("/v2/models/pair/infer", content=b"RIFF", headers={HEADER: "0"}).status_code == 400
    assert client.post("/v2/models/speech/infer", content=b"", headers={HEADER: "0"}).status_code == 400


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "%2e%2e",
        "a%2fb",
        "a%00b",
        "x" * 9000,
        "adder%0a",
        "adder/versions/9",
        "adder/versions/..%2f1",
        "ADDER",
        "adder.text",
        "adder.",
    ],
)
def test_names_are_looked_up_and_nothing_else(client: httpx.Client, served: Served, name: str) -> None:
    answer = client.post(f"/v2/models/{name}/infer", content=json.dumps(make_request()))
    assert answer.status_code in (404, 405) and list(answer.json()) == ["error"] and len(answer.content) < 700


GOOD = json.dumps(make_request()).encode()


@pytest.mark.parametrize(
    ("packing", "body", "status"),
    [
        ("gzip", gzip.compress(GOOD, mtime=0), 200),
        ("deflate", zlib.compress(GOOD), 200),
        ("deflate", zlib.compress(GOOD)[2:-4], 200),
        ("identity", GOOD, 200),
        ("gzip", GOOD, 400),
        ("gzip", b"", 400),
        ("gzip", gzip.compress(GOOD, mtime=0)[:-9], 400),
        ("gzip", gzip.compress(GOOD, mtime=0) + b"x", 400),
        ("deflate", b"\x78\x9c", 400),
        ("gzip", gzip.compress(GOOD, mtime=0) * 2, 400),
        ("br", GOOD, 415),
        ("gzip, gzip", gzip.compress(gzip.compress(GOOD, mtime=0), mtime=0), 415),
        ("x" * 300, GOOD, 415),
        ("gzip", gzip.compress(bytes(65 * 2**20), 6, mtime=0), 413),
        ("deflate", zlib.compress(bytes(65 * 2**20), 6), 413),
    ],
    ids=lambda value: "body" if isinstance(value, bytes) else str(value)[:20],
)
def test_packed_bodies(client: httpx.Client, packing: str, body: bytes, status: int) -> None:
    answer = client.post("/v2/models/adder/infer", content=body, headers={"Content-Encoding": packing})
    assert answer.status_code == status, answer.text


def test_serialised_tensors_are_never_loaded(client: httpx.Client) -> None:
    for kind in ("application/octet-stream", "application/x-pickle", "application/x-npy", "text/plain"):
        answer = client.post("/embed?model=pair", content=b"\x80\x04.", headers={"Content-Type": kind})
        assert answer.status_code == 415 and list(answer.json()) == ["error"]

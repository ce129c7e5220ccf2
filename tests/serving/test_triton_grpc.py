"""Triton's gRPC client, unchanged, against the servicer on a real port; its generated messages are in the same process as ours."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from fake_service import FakeService
from grpc_loopback import GrpcServed
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from trimodal.errors import InputError
from trimodal.serving.grpc.messages import HEALTH_MESSAGES, MESSAGES
from trimodal.serving.grpc.server import start_grpc_server
from trimodal.serving.limits import Limits
from trimodal.serving.refusals import RefusedError


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    served = GrpcServed(SERVICE, count=COUNTED.append)
    yield served.port
    served.close()


SERVICE = FakeService(Limits(body_bytes=100_000))
COUNTED: list[str] = []


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as one:
        yield one


def _inputs(rows: int = 2) -> list[triton.InferInput]:
    made = []
    for name, start in (("a", 1), ("b", 10)):
        made.append(triton.InferInput(name, [rows, 3], "INT64"))
        made[-1].set_data_from_numpy(np.arange(start, start + 3 * rows, dtype=np.int64).reshape(rows, 3))
    return made


def test_health_and_metadata(client) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("adder") and not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata().extensions
    told = client.get_model_metadata("pair.vision", "2")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in told.inputs] == [("pixels", "FP32", [-1, 2])]
    config = client.get_model_config("adder", as_json=True)["config"]
    assert (
        config["max_batch_size"] == 16
        and config["input"][0]["data_type"] == "TYPE_INT64"
        and config["instance_group"][0]["kind"] == "KIND_CPU"
    )
    assert config["parameters"]["family"]["string_value"] == "bert"


def test_infer_statistics_and_index(client) -> None:
    for packing in (None, "gzip", "deflate"):
        answer = client.infer("adder", _inputs(), request_id="9", compression_algorithm=packing)
        assert answer.as_numpy("sum").tolist() == [[11, 13, 15], [17, 19, 21]] and answer.get_response().id == "9"
    answer = client.infer("adder", _inputs(), outputs=[triton.InferRequestedOutput("mean")])
    assert answer.as_numpy("mean").tolist() == [13, 19] and answer.as_numpy("sum") is None
    (counted,) = client.get_inference_statistics("adder").model_stats
    assert counted.inference_count >= 8 and counted.inference_stats.compute_infer.ns > 0
    names = [model.name for model in client.get_model_repository_index().models]
    assert names[:2] == ["adder", "pair"] and "pair.embed" in names


def test_files_and_texts_in_bytes(client) -> None:
    image = triton.InferInput("image", [2], "BYTES")
    image.set_data_from_numpy(np.array([b"\x89PNG\x00\xff", b"x"], dtype=object))
    assert client.infer("pair", [image]).as_numpy("embedding").tolist() == [[6, 1, 0.5, 0], [1, 1, 0.5, 0]]
    labels = client.infer("sight.classify", [image], parameters={"top": 1}).as_numpy("label")
    assert labels.tolist() == [[b"cat"], [b"cat"]]


def test_typed_contents_are_taken_too(client) -> None:
    request = service_pb2.ModelInferRequest(model_name="adder")
    for name in ("a", "b"):
        tensor = request.inputs.add(name=name, datatype="INT64", shape=[1, 3])
        tensor.contents.int64_contents.extend([1, 2, 3])
    answer = client._client_stub.ModelInfer(request)
    assert np.frombuffer(answer.raw_output_contents[0], dtype=np.int64).tolist() == [2, 4, 6]


def _wrong(**changes: object) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name="adder")
    for name in ("a", "b"):
        request.inputs.add(name=name, datatype="INT64", shape=[1, 3])
        request.raw_input_contents.append(bytes(24))
    for change, value in changes.items():
        if change == "raw":
            del request.raw_input_contents[:]
            request.raw_input_contents.extend(value)  # type: ignore[arg-type]
        elif change == "typed":
            request.inputs[0].contents.int64_contents.extend(value)  # type: ignore[arg-type]
        elif change == "outputs":
            for name in value:  # type: ignore[attr-defined]
                request.outputs.add(name=name)
        elif change == "parameter":
            request.parameters[value[0]].MergeFrom(value[1])  # type: ignore[index]
        else:
            setattr(request.inputs[0], change, value) if change != "shape" else request.inputs[0].shape.__setitem__(slice(0, 2), value)
    return request


P = service_pb2.InferParameter


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"typed": [1, 2, 3]}, "both raw and typed"),
        ({"raw": [bytes(24)]}, "1 elements for 2 inputs"),
        ({"raw": [bytes(24), bytes(23)]}, "23 bytes"),
        ({"shape": [2**62, 2**62]}, "more elements"),
        ({"shape": [-1, 3]}, "whole numbers from 1"),
        ({"shape": [0, 3]}, "whole numbers from 1"),
        ({"datatype": "BF16"}, "not known"),
        ({"datatype": "FP64"}, "expected INT64"),
        ({"name": "b"}, "twice"),
        ({"name": "c"}, "no input"),
        ({"outputs": ["sum", "sum"]}, "twice"),
        ({"outputs": ["c"]}, "no such output"),
        ({"raw": []}, "0 elements"),
        ({"parameter": ("timeout", P(int64_param=0))}, "timeout"),
        ({"parameter": ("timeout", P(uint64_param=2**63))}, "timeout"),
        ({"parameter": ("sequence_id", P(int64_param=1))}, "reserved"),
        ({"parameter": ("triton_x", P(string_param="a"))}, "reserved"),
        ({"parameter": ("what", P())}, "null"),
    ],
)
def test_bad_requests(client, changes: dict[str, object], words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client._client_stub.ModelInfer(_wrong(**changes))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT and words in caught.value.details()
    assert client.infer("adder", _inputs()).as_numpy("mean").tolist() == [13, 19]


def test_what_is_no_message(port: int, client) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in ("ModelInfer", "ModelConfig", "RepositoryIndex"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}", bytes, bytes)
            for data in (b"\xff" * 50, b"\x0a\xff\x7f", b"\x9b\x06" * 5000):
                with pytest.raises(grpc.RpcError) as caught:
                    call(data)
                assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "protobuf" not in caught.value.details()
        parse = MESSAGES["ModelStreamInferResponse"].FromString
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer", bytes, parse)
        assert "cannot be read" in next(stream(iter([b"\xff" * 50]))).error_message
    assert client.infer("adder", _inputs()).as_numpy("mean").tolist() == [13, 19]


def test_other_statuses(client) -> None:
    for call, code in [
        (lambda: client.infer("nobody", _inputs()), "NOT_FOUND"),
        (lambda: client.infer("adder", _inputs(300)), "RESOURCE_EXHAUSTED"),
        (lambda: client.infer("adder", _inputs(3000)), "RESOURCE_EXHAUSTED"),
        (lambda: client.infer("adder", _inputs(3000), compression_algorithm="gzip"), "RESOURCE_EXHAUSTED"),
        (lambda: client.load_model("adder"), "PERMISSION_DENIED"),
        (lambda: client.get_system_shared_memory_status(), "UNIMPLEMENTED"),
    ]:
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == f"StatusCode.{code}"


def test_deadline_is_that_of_the_call(client) -> None:
    client.infer("adder", _inputs(), client_timeout=50)
    assert 20 < SERVICE.calls[-1]["seconds"] < 60
    client.infer("adder", _inputs(), client_timeout=50, timeout=1_500_000)
    assert SERVICE.calls[-1]["seconds"] == 1.5


def test_work_ends_where_the_client_does_not_wait(client) -> None:
    before, SERVICE.hold = SERVICE.cancelled, 5.0
    try:
        with pytest.raises(InferenceServerException):
            client.infer("adder", _inputs(), client_timeout=0.2)
        for _ in range(100):
            if SERVICE.cancelled > before:
                break
            threading.Event().wait(0.02)
    finally:
        SERVICE.hold = 0.0
    assert SERVICE.cancelled == before + 1


@pytest.mark.parametrize(
    ("status", "code"), [(429, "RESOURCE_EXHAUSTED"), (503, "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED"), (None, "INTERNAL")]
)
def test_refusals_and_faults(client, status: int | None, code: str) -> None:
    SERVICE.refusal = RefusedError(status, "not now", retry_after=2.5) if status else ValueError("/home/somebody/secret")
    try:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("adder", _inputs())
    finally:
        SERVICE.refusal = None
    assert caught.value.status() == f"StatusCode.{code}" and "secret" not in str(caught.value)


def test_calls_are_counted_for_other_processes(client) -> None:
    client.infer("pair.text", [_ids()])
    assert COUNTED[-1] == "pair"


def _ids() -> triton.InferInput:
    ids = triton.InferInput("ids", [1, 2], "INT64")
    ids.set_data_from_numpy(np.ones((1, 2), dtype=np.int64))
    return ids


def test_keys() -> None:
    served = GrpcServed(FakeService(), ("right",))
    try:
        with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
            assert client.is_server_ready()
            with pytest.raises(InferenceServerException) as caught:
                client.infer("adder", _inputs(), headers={"authorization": "Bearer wrong"})
            assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
            assert client.infer("adder", _inputs(), headers={"authorization": "Bearer right"}).as_numpy("mean").tolist() == [13, 19]
    finally:
        served.close()


def test_ports_are_shared_by_processes_and_else_refused_in_words() -> None:
    async def listen_twice() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(InputError, match="choose another --grpc-port"):
                await start_grpc_server(FakeService(), "127.0.0.1", port)
        first = await start_grpc_server(FakeService(), "127.0.0.1", port)
        second = await start_grpc_server(FakeService(), "127.0.0.1", port)
        await first.stop(1)
        await second.stop(1)

    asyncio.run(listen_twice())


def test_streams(client) -> None:
    heard: queue.Queue[tuple[object, object]] = queue.Queue()
    client.start_stream(lambda result, error: heard.put((result, error)))
    try:
        client.async_stream_infer("adder", _inputs(), request_id="1")
        client.async_stream_infer("nobody", _inputs(), request_id="2")
        client.async_stream_infer("adder", _inputs(), request_id="3")
        found = [heard.get(timeout=20) for _ in range(3)]
    finally:
        client.stop_stream()
    assert found[0][0].as_numpy("mean").tolist() == [13, 19] and found[2][0].get_response().id == "3"
    assert found[1][0] is None and "no model 'nobody'" in str(found[1][1])


def test_grpcs_own_health_check(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(
            "/grpc.health.v1.Health/Check", lambda message: message.SerializeToString(), HEALTH_MESSAGES["HealthCheckResponse"].FromString
        )
        assert ask(HEALTH_MESSAGES["HealthCheckRequest"]()).status == 1

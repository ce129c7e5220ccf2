"""Triton's HTTP client, unchanged, against the app."""

from __future__ import annotations

import numpy as np
import pytest
from fake_service import FakeService
from loopback import Served
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def client(served: Served):
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as one:
        yield one


def _inputs(binary: bool) -> list[triton.InferInput]:
    made = []
    for name, start in (("a", 1), ("b", 10)):
        made.append(triton.InferInput(name, [2, 3], "INT64"))
        made[-1].set_data_from_numpy(np.arange(start, start + 6, dtype=np.int64).reshape(2, 3), binary_data=binary)
    return made


SUM = [[11, 13, 15], [17, 19, 21]]


def test_health_and_metadata(client) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("adder")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    told = client.get_model_metadata("pair.vision", "2")
    assert told["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 2]}] and told["versions"] == ["2"]
    assert [tensor["name"] for tensor in client.get_model_metadata("pair")["inputs"]] == ["image", "text"]


def test_config_statistics_and_index(client) -> None:
    config = client.get_model_config("adder")
    assert config["max_batch_size"] == 16 and config["input"][0] == {
        "name": "a",
        "data_type": "TYPE_INT64",
        "dims": [3],
        "optional": False,
    }
    client.infer("adder", _inputs(True))
    (counted,) = client.get_inference_statistics("adder")["model_stats"]
    assert counted["inference_count"] >= 2 and counted["inference_stats"]["compute_infer"]["ns"] >= 500_000_000
    names = [model["name"] for model in client.get_model_repository_index()]
    assert names[:5] == ["adder", "pair", "sight", "speech", "talk"] and {"adder.model", "pair.embed", "speech.transcribe"} <= set(names)
    assert len(client.get_inference_statistics()["model_stats"]) == len(names)


def test_control_is_refused_in_words(client) -> None:
    with pytest.raises(InferenceServerException, match="by the operator"):
        client.load_model("adder")
    with pytest.raises(InferenceServerException, match="nothing at this path"):
        client.get_system_shared_memory_status()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
def test_infer(client, binary: bool, binary_out: bool, packing: str | None) -> None:
    wishes = [triton.InferRequestedOutput("sum", binary_data=binary_out), triton.InferRequestedOutput("mean", binary_data=True)]
    answer = client.infer(
        "adder",
        _inputs(binary),
        outputs=wishes,
        request_id="7",
        request_compression_algorithm=packing,
        response_compression_algorithm=packing,
    )
    assert answer.as_numpy("sum").tolist() == SUM and answer.as_numpy("mean").dtype == np.float32
    assert answer.get_response()["id"] == "7" and answer.get_response()["model_version"] == "1"


def test_large_answers_are_packed(client) -> None:
    made = []
    for name in ("a", "b"):
        made.append(triton.InferInput(name, [200, 3], "INT64"))
        made[-1].set_data_from_numpy(np.ones((200, 3), dtype=np.int64))
    for packing in ("gzip", "deflate"):
        answer = client.infer("adder", made, response_compression_algorithm=packing)
        assert (answer.as_numpy("sum") == 2).all()


def test_default_call_and_wish_by_output(client) -> None:
    assert client.infer("adder", _inputs(True)).as_numpy("sum").tolist() == SUM
    answer = client.infer("adder", _inputs(True), outputs=[triton.InferRequestedOutput("mean")])
    assert [output["name"] for output in answer.get_response()["outputs"]] == ["mean"]


def test_half_floats_go_as_binary_data(client) -> None:
    pixels = triton.InferInput("pixels", [1, 2], "FP16")
    pixels.set_data_from_numpy(np.array([[0.5, 1.5]], dtype=np.float16))
    assert client.infer("sight", [pixels]).as_numpy("logits").tolist() == [[1.0, 3.0]]


def test_files_and_texts_in_bytes(client) -> None:
    image = triton.InferInput("image", [2], "BYTES")
    image.set_data_from_numpy(np.array([b"\x89PNG\x00\xff", b"x"], dtype=object))
    answer = client.infer("pair", [image])
    assert answer.as_numpy("embedding").tolist() == [[6, 1, 0.5, 0], [1, 1, 0.5, 0]]
    labels = triton.InferInput("labels", [2], "BYTES")
    labels.set_data_from_numpy(np.array(["a cat", "ein Hündchen"], dtype=object), binary_data=False)
    answer = client.infer("pair.classify", [image, labels], parameters={"top": 2})
    assert answer.as_numpy("label").tolist() == [[b"a cat", "ein Hündchen".encode()]] * 2 and answer.as_numpy("score")[0].tolist() == [
        0.75,
        0.25,
    ]
    text = client.infer("speech", [_audio([b"abc"])]).as_numpy("text")
    assert text.tolist() == [b"transcribe:  3"]


def test_boxes_of_different_number_are_filled_up(client) -> None:
    image = triton.InferInput("image", [2, 1], "BYTES")
    image.set_data_from_numpy(np.array([[b"a"], [b"abc"]], dtype=object))
    answer = client.infer("sight.detect", [image])
    assert answer.as_numpy("box").shape == (2, 3, 4) and answer.as_numpy("label").tolist() == [[b"cat", b"", b""], [b"cat"] * 3]
    assert answer.as_numpy("score")[0].tolist() == [np.float32(0.9), 0, 0]


def test_one_bad_item_is_named(client) -> None:
    with pytest.raises(InferenceServerException, match="item 1: this cannot be read"):
        client.infer("speech", [_audio([b"good", b"bad"])])


def test_timeout_is_the_deadline(client, fake: FakeService) -> None:
    client.infer("adder", _inputs(True), timeout=2_500_000)
    assert fake.calls[-1]["seconds"] == 2.5


def test_errors_are_words(client) -> None:
    with pytest.raises(InferenceServerException, match="there is no model 'nobody'"):
        client.infer("nobody", _inputs(True))
    with pytest.raises(InferenceServerException, match="'sequence_id' is reserved"):
        client.infer("adder", _inputs(True), sequence_id=3, sequence_start=True)


def _audio(files: list[bytes]) -> triton.InferInput:
    audio = triton.InferInput("audio", [len(files)], "BYTES")
    audio.set_data_from_numpy(np.array(files, dtype=object))
    return audio

"""Stock clients, unchanged, against a real `trimodal serve` of compressed artifacts; what they get is what the artifacts answer in Python.

The ordinary suite serves miniatures. `trained` (slow) serves the trained see-hear-read model and the real MiniLM, with exports for two
runtimes, to all clients, KServe's included, which needs its environment (`make kserve`).
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from client_artifacts import make_miniatures, make_trained
from client_questions import DATATYPES, Question, pack_arrays, unpack_arrays
from media_files import make_png, make_wav
from numpy.typing import NDArray
from python_answers import SAME, TEXTS, TOKENS, WHAT, list_questions
from server_process import PATIENCE, Server
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http

ROOT = Path(__file__).parents[2]
KSERVE = Path(os.environ.get("TRIMODAL_KSERVE_PYTHON", ROOT / ".venv-kserve" / "bin" / "python"))
IMAGES = [make_png(seed=1), make_png((33, 50), seed=2)]
SOUNDS = {rate: [make_wav(seconds, rate) for seconds in (0.5, 0.3)] for rate in (8000, 16_000)}
PACKINGS = [None, "gzip", "deflate"]


@dataclass(frozen=True)
class Service:
    """A server under way, by its addresses, and what it must answer."""

    http: str
    grpc: str
    questions: list[Question]

    def find_answer(self, model: str, name: str, asked: str) -> Any:
        """What `model` answers as `name` where `asked` is an input."""
        return next(one.outputs[name] for one in self.questions if one.model == model and asked in one.inputs)


@pytest.fixture(scope="module", params=["miniatures", pytest.param("trained", marks=pytest.mark.slow)])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`trimodal serve` in a process of its own, over six artifacts."""
    root = tmp_path_factory.mktemp("clients")
    trained = request.param == "trained"
    folders = make_trained(root) if trained else make_miniatures(root, request.getfixturevalue("served_folders"))
    questions = list_questions(folders, IMAGES, SOUNDS)
    with socket.create_server(("127.0.0.1", 0)) as free:
        grpc_port = free.getsockname()[1]
    models = [f"{name}={folder}" for name, folder in folders.items()]
    options = ["--port", "0", "--grpc-port", str(grpc_port), "--workers", "1", "--threads", "1", "--log", "json"]
    process = subprocess.Popen([sys.executable, "-m", "trimodal", "serve", *models, *options], stderr=subprocess.PIPE, text=True)
    server = Server(process)
    try:
        url = server.wait_for("serving", 4 * PATIENCE)["url"]
        yield Service(url.removeprefix("http://"), f"127.0.0.1:{grpc_port}", questions)
        server.send(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def make_inputs(client: Any, question: Question, **options: bool) -> list[Any]:
    made = []
    for name, value in question.inputs.items():
        made.append(client.InferInput(name, list(value.shape), DATATYPES[str(value.dtype)]))
        made[-1].set_data_from_numpy(value, **options)
    return made


def read_outputs(answer: Any, question: Question) -> dict[str, NDArray[Any]]:
    return {name: answer.as_numpy(name) for name in question.outputs}


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_triton_http(service: Service, binary: bool, packing: str | None) -> None:
    """Files are binary in any case: the client does not put what is no text into JSON."""
    with triton_http.InferenceServerClient(service.http) as client:
        for question in service.questions:
            inputs = make_inputs(triton_http, question, binary_data=binary or not question.can_be_text)
            outputs = [triton_http.InferRequestedOutput(name, binary_data=binary) for name in question.outputs]
            answer = client.infer(
                question.model, inputs, outputs=outputs, parameters=question.parameters or None,
                request_compression_algorithm=packing, response_compression_algorithm=packing,
            )  # fmt: skip
            question.check(_as_bytes(read_outputs(answer, question)))


@pytest.mark.parametrize("packing", PACKINGS)
def test_triton_grpc(service: Service, packing: str | None) -> None:
    with triton_grpc.InferenceServerClient(service.grpc) as client:
        for question in service.questions:
            inputs = make_inputs(triton_grpc, question)
            answer = client.infer(question.model, inputs, parameters=question.parameters or None, compression_algorithm=packing)
            question.check(read_outputs(answer, question))


def test_triton_finds_out_what_is_served(service: Service) -> None:
    with triton_http.InferenceServerClient(service.http) as over_http, triton_grpc.InferenceServerClient(service.grpc) as over_grpc:
        assert over_http.is_server_ready() and over_grpc.is_server_ready()
        names = {model["name"] for model in over_http.get_model_repository_index()}
        assert names == {model.name for model in over_grpc.get_model_repository_index().models}
        for question in service.questions:
            assert question.model in names and over_http.is_model_ready(question.model) and over_grpc.is_model_ready(question.model)
            told = over_http.get_model_metadata(question.model)
            assert {tensor["name"] for tensor in told["inputs"]} >= set(question.inputs)
            same = over_grpc.get_model_metadata(question.model, as_json=True)
            assert [tensor["name"] for tensor in told["outputs"]] == [tensor["name"] for tensor in same["outputs"]]


@pytest.mark.slow
@pytest.mark.skipif(not KSERVE.is_file(), reason="KServe's client is not installed: make kserve")
def test_kserve(service: Service, tmp_path: Path) -> None:
    asked = [
        {
            "model": one.model, "inputs": pack_arrays(one.inputs), "parameters": one.parameters, "outputs": list(one.outputs),
            "can_be_text": one.can_be_text,
        }
        for one in service.questions
    ]  # fmt: skip
    (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = Path(__file__).with_name("kserve_questions.py")
    command = [KSERVE, script, tmp_path / "asked.json", f"http://{service.http}", service.grpc]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=clean)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    for protocol, ways in (("rest", {"binary", "mixed", "json"}), ("grpc", {"raw", "typed"})):
        for question, answers in zip(service.questions, told[protocol], strict=True):
            assert set(answers) == (ways if question.can_be_text else ways - {"json", "typed"})
            for answer in answers.values():
                question.check(_as_bytes(unpack_arrays(answer)))


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{service.http}/v1", api_key="none", max_retries=0) as one:
        yield one


def write_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_openai_embeddings(service: Service, client: openai.OpenAI, options: dict[str, Any]) -> None:
    images, sounds = [write_uri("image/png", file) for file in IMAGES], [write_uri("audio/wav", SOUNDS[16_000][0])]
    for model, sent, asked in (("clip", images, "image"), ("clip", None, "text"), ("minilm", None, "text"), ("clap", sounds, "audio")):
        known = service.find_answer(f"{model}.embed", "embedding", asked)
        found = client.embeddings.create(model=model, input=sent or TEXTS, extra_body={"modality": asked}, **options)
        np.testing.assert_allclose([one.embedding for one in found.data], known, atol=SAME)
        assert found.model == model and (found.usage.prompt_tokens > 0) == (asked == "text")
        if sent is not None:
            kind = f"{asked}_url"
            content = [{"type": kind, kind: {"url": sent[0]}}]
            body = {"model": model, "messages": [{"role": "user", "content": content}]}
            one = client.post("/embeddings", body=body, cast_to=openai.types.CreateEmbeddingResponse)
            np.testing.assert_allclose(one.data[0].embedding, known[0], atol=SAME)


def test_openai_transcriptions(service: Service, client: openai.OpenAI) -> None:
    known = service.find_answer("whisper.transcribe", "text", "audio")[0].decode()
    sound = ("a.wav", SOUNDS[16_000][0], "audio/wav")
    said = client.audio.transcriptions.create(model="whisper", file=sound).text
    assert said.startswith(known)
    events = list(client.audio.transcriptions.create(model="whisper", file=sound, stream=True))
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == said


def test_openai_chat(service: Service, client: openai.OpenAI) -> None:
    known = service.find_answer("llava.ask", "text", "image")[0].decode()
    content: list[Any] = [
        {"type": "image_url", "image_url": {"url": write_uri("image/png", IMAGES[0])}}, {"type": "text", "text": WHAT},
    ]  # fmt: skip
    asked: dict[str, Any] = {"model": "llava", "messages": [{"role": "user", "content": content}], "max_tokens": TOKENS}
    answer = client.chat.completions.create(**asked)
    assert answer.choices[0].message.content == known and answer.usage.completion_tokens == TOKENS
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == known
    assert pieces[-1].usage == answer.usage


def test_openai_on_a_model_that_only_classifies(client: openai.OpenAI) -> None:
    """See-hear-read answers with classes, for which OpenAI's dialect has no form; its client lists it, and says why it cannot do more."""
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {"see", "clip", "minilm", "whisper", "llava", "clap"} and listed["see"].tasks == ["classify"]
    for call in (
        lambda: client.embeddings.create(model="see", input="what"),
        lambda: client.chat.completions.create(model="see", messages=[{"role": "user", "content": "what"}]),
        lambda: client.audio.transcriptions.create(model="see", file=("a.wav", SOUNDS[8000][0], "audio/wav")),
    ):
        with pytest.raises(openai.BadRequestError, match="classif"):
            call()


def _as_bytes(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Texts that came in JSON as those that came in binary."""
    encode = np.frompyfunc(lambda value: value.encode() if isinstance(value, str) else value, 1, 1)
    return {name: encode(value) if value.dtype == object else value for name, value in arrays.items()}

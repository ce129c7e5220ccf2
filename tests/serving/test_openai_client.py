"""OpenAI's client, unchanged, against the app."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator

import openai
import pytest
from fake_service import FakeService
from loopback import Served

from trimodal.serving.refusals import RefusedError

PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG....").decode()
WAV = "data:audio/wav;base64," + base64.b64encode(b"RIFF").decode()


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def test_embeddings_in_base64_as_the_client_asks_by_itself(client: openai.OpenAI, fake: FakeService) -> None:
    answer = client.embeddings.create(model="adder", input=["one two", "three"])
    assert [vector.embedding for vector in answer.data] == [[7, 1, 0.5, 0], [5, 1, 0.5, 0]]
    assert answer.usage.prompt_tokens == 3 and answer.model == "adder"
    assert fake.calls[-1]["seconds"] == 600  # the client's own read timeout


def test_embeddings_as_numbers_and_of_one_text(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="adder", input="four", encoding_format="float")
    assert answer.data[0].embedding == [4, 1, 0.5, 0] and answer.data[0].index == 0


def test_embeddings_of_images_in_three_dialects(client: openai.OpenAI) -> None:
    wanted = [8, 1, 0.5, 0]
    answer = client.embeddings.create(model="pair", input=[PNG, PNG], extra_body={"modality": "image"})
    assert [vector.embedding for vector in answer.data] == [wanted, wanted]
    answer = client.embeddings.create(model="pair", input=[{"image": PNG}], encoding_format="float")  # type: ignore[list-item]
    assert answer.data[0].embedding == wanted
    content = [{"type": "image_url", "image_url": {"url": PNG}}, {"type": "text", "text": "ab"}]
    posted = client.post("/embeddings", body={"model": "pair", "messages": [{"role": "user", "content": content}]}, cast_to=object)
    assert posted["data"][0]["embedding"] == [10, 1, 0.5, 0]  # type: ignore[index]


def test_dimensions_only_where_they_are_the_models(client: openai.OpenAI) -> None:
    assert len(client.embeddings.create(model="adder", input="a", dimensions=4).data[0].embedding) == 4
    with pytest.raises(openai.BadRequestError, match="dimensions cannot be chosen"):
        client.embeddings.create(model="adder", input="a", dimensions=2)


def test_chat(client: openai.OpenAI, fake: FakeService) -> None:
    content = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": PNG}}]
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": content}]
    answer = client.chat.completions.create(model="talk", messages=messages, max_tokens=9, temperature=0)  # type: ignore[arg-type]
    prompt = [("system", "be short"), ("user", [{"type": "text", "text": "what is this?"}, {"type": "image"}])]
    assert answer.choices[0].message.content == f"ask: {prompt} 8"
    assert answer.choices[0].finish_reason == "stop" and answer.usage is not None and answer.usage.total_tokens == 8
    assert fake.calls[-1]["options"].max_tokens == 9


def test_what_is_null_is_not_asked_for(client: openai.OpenAI) -> None:
    body = {"model": "adder", "input": "a", "encoding_format": None, "dimensions": None, "modality": None}
    assert client.post("/embeddings", body=body, cast_to=object)["data"][0]["embedding"] == [1, 1, 0.5, 0]  # type: ignore[index]
    body = {"model": "talk", "messages": [{"role": "user", "content": "a"}], "stop": None, "tools": None, "stream": None}
    assert client.post("/chat/completions", body=body, cast_to=object)["object"] == "chat.completion"  # type: ignore[index]


def test_chat_in_pieces(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "what is this?"}]
    stream = client.chat.completions.create(model="talk", messages=messages, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    pieces = list(stream)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == "It is a cat."
    assert pieces[0].choices[0].delta.role == "assistant" and pieces[-2].choices[0].finish_reason == "stop"
    assert pieces[-1].usage.total_tokens == 11 and pieces[-1].choices == []


def test_work_ends_where_the_client_leaves_a_stream(client: openai.OpenAI, fake: FakeService) -> None:
    before, fake.hold = fake.cancelled, 0.2
    try:
        stream = client.chat.completions.create(model="talk", messages=[{"role": "user", "content": "?"}], stream=True)
        next(iter(stream))
        stream.close()
        for _ in range(100):
            if fake.cancelled > before:
                break
            time.sleep(0.02)
    finally:
        fake.hold = 0.0
    assert fake.cancelled == before + 1


def test_transcriptions(client: openai.OpenAI, fake: FakeService) -> None:
    sound = ("a.wav", b"RIFFabc", "audio/wav")
    assert client.audio.transcriptions.create(model="speech", file=sound).text == "transcribe:  7"
    assert client.audio.transcriptions.create(model="speech", file=sound, response_format="text", language="de") == "transcribe:  7\n"
    assert fake.calls[-1]["options"].language == "de"
    told = client.audio.transcriptions.create(model="speech", file=sound, response_format="verbose_json", language="de")
    assert told.text == "transcribe:  7" and told.language == "de"
    events = list(client.audio.transcriptions.create(model="speech", file=sound, stream=True))
    assert [event.type for event in events] == ["transcript.text.delta"] * 4 + ["transcript.text.done"] and events[
        -1
    ].text == "It is a cat."
    with pytest.raises(openai.BadRequestError, match="response_format"):
        client.audio.transcriptions.create(model="speech", file=sound, response_format="srt")


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["adder", "pair", "sight", "speech", "talk"]
    assert client.models.retrieve("pair").tasks == ["embed", "classify"]  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_client_waits_as_long_as_it_is_told(client: openai.OpenAI, fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        fake.refusal = None

    monkeypatch.setattr("openai._base_client.time.sleep", sleep)
    fake.refusal = RefusedError(429, "the queue is full", retry_after=6.2)
    assert client.with_options(max_retries=2).embeddings.create(model="adder", input="a").data[0].embedding[0] == 1
    assert waits == [7]


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, openai.RateLimitError), (503, openai.InternalServerError), (504, openai.InternalServerError), (413, openai.APIStatusError)],
)
def test_refusals_have_the_clients_own_errors(
    client: openai.OpenAI, fake: FakeService, status: int, error: type[openai.APIStatusError]
) -> None:
    fake.refusal = RefusedError(status, "not now")
    try:
        with pytest.raises(error) as caught:
            client.embeddings.create(model="adder", input="a")
    finally:
        fake.refusal = None
    assert caught.value.status_code == status and caught.value.body["message"] == "not now"  # type: ignore[index]


def test_faults_of_ours_are_not_told(client: openai.OpenAI, fake: FakeService, caplog: pytest.LogCaptureFixture) -> None:
    fake.refusal = ValueError("/home/somebody/secret")
    try:
        with pytest.raises(openai.InternalServerError) as caught:
            client.embeddings.create(model="adder", input="a")
    finally:
        fake.refusal = None
    assert "secret" not in str(caught.value) and "fault" in str(caught.value) and "secret" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"input": ""}, "1 to"),
        ({"input": []}, "empty"),
        ({"input": [[1, 2, 3]]}, "tokens"),
        ({"input": [1, 2]}, "tokens"),
        ({"input": "a", "extra": 1}, "unknown field"),
        ({"input": ["bad"]}, "input[0]"),
        ({"input": ["a", "bad"]}, "input[1]"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "modality": "video"}, "modality"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({}, "either input or messages"),
        ({"input": "https://example.org/a.png", "modality": "image"}, "not fetched"),
        ({"input": "file:///etc/passwd", "modality": "image"}, "not fetched"),
        ({"input": "data:image/png;base64,@@@@", "modality": "image"}, "base64"),
        ({"input": "data:image/png;base64,abc", "modality": "image"}, "base64"),
        ({"input": "data:image/png;base64,ab c=", "modality": "image"}, "base64"),
        ({"input": "data:image/png;base64,a-_=", "modality": "image"}, "base64"),
        ({"input": "data:;base64,abcd", "modality": "image"}, "data: URI"),
        ({"input": f"data:image/png;{'x' * 500};base64,abcd", "modality": "image"}, "data: URI"),
    ],
)
def test_bad_embedding_requests(client: openai.OpenAI, wrong: dict[str, object], words: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/embeddings", body={"model": "pair", **wrong}, cast_to=object)
    assert words in caught.value.body["message"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"input": ["a"] * 1000}, 413),
        ({"input": WAV, "modality": "image"}, 415),
        ({"input": "data:application/octet-stream;base64,gAN9", "modality": "image"}, 415),
        ({"input": "a", "model": "nobody"}, 404),
        ({"input": "a", "model": "speech"}, 400),
    ],
)
def test_other_statuses_of_embeddings(client: openai.OpenAI, wrong: dict[str, object], status: int) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.post("/embeddings", body={"model": "pair", **wrong}, cast_to=object)
    assert caught.value.status_code == status


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 2.1},
        {"temperature": "warm"},
        {"top_p": 0},
        {"top_p": 1.5},
        {"seed": -1},
        {"seed": 0.5},
        {"n": 2},
        {"stop": ""},
        {"stop": "x" * 65},
        {"tools": []},
        {"response_format": {"type": "json_object"}},
        {"max_tokens": 0},
        {"max_tokens": 10**9},
        {"stream": 1},
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "a"}]},
        {"temperature": False},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}] * 2}]},
        {"model": "adder"},
        {"messages": [{"role": "user", "content": [{"type": "video", "video": "a"}]}]},
        {"messages": [{"role": "tool", "content": "a"}]},
    ],
)
def test_bad_chat_requests(client: openai.OpenAI, wrong: dict[str, object]) -> None:
    with pytest.raises(openai.BadRequestError):
        client.post("/chat/completions", body={"model": "talk", "messages": [{"role": "user", "content": "a"}], **wrong}, cast_to=object)

"""Task routes: forms, JSON and bare files in; answers per item out."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import pytest
from fake_service import FakeService
from loopback import Served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url) as one:
        yield one


def test_forms(client: httpx.Client, fake: FakeService) -> None:
    answer = client.post(
        "/classify",
        data={"model": "pair", "labels": ["a cat", "a dog"], "top": "1"},
        files=[("image", ("a.png", b"abc")), ("image", ("b.png", b"de"))],
    )
    assert answer.json() == {"model": "pair", "answers": [{"labels": [{"label": "a cat", "score": 0.75}]}] * 2}
    assert fake.calls[-1]["items"][1].image == b"de" and fake.calls[-1]["options"].top == 1
    answer = client.post("/transcribe", files={"audio": ("a.wav", b"RIFF")}, data={"language": "de"})
    assert answer.json() == {"model": "speech", "answers": [{"text": "transcribe:  4", "finish": "stop", "tokens": 3}]}
    answer = client.post("/ask", files={"image": ("a.png", b"abc")}, data={"text": "what?", "max_tokens": "7"})
    assert answer.json()["answers"][0]["text"] == "ask: what? 3" and fake.calls[-1]["options"].max_tokens == 7


def test_json(client: httpx.Client) -> None:
    packed = base64.b64encode(b"\xff\xd8\xff").decode()  # of a JPEG, which begins with a slash
    assert packed.startswith("/9j/")
    items = [{"image": packed}, {"image": f"data:image/jpeg;base64,{packed}"}, {"text": "bad"}]
    answer = client.post("/embed", json={"model": "pair", "items": items}).json()["answers"]
    assert answer[0] == answer[1] == {"embedding": [3, 1, 0.5, 0], "modality": "image"} and answer[2] == {
        "error": "this cannot be read",
        "status": 400,
    }
    answer = client.post("/detect", json={"image": packed}).json()["answers"][0]
    assert answer["boxes"] == [{"label": "cat", "score": 0.9, "box": [0, 0.25, 0.5, 1]}] * 3


def test_bare_files(client: httpx.Client, fake: FakeService) -> None:
    answer = client.post("/detect?top=3", content=b"x", headers={"Content-Type": "image/png"})
    assert answer.status_code == 200 and fake.calls[-1]["items"][0].image == b"x" and fake.calls[-1]["options"].top == 3
    assert (
        client.post("/transcribe", content=b"RIFF", headers={"Content-Type": "audio/wav"}).json()["answers"][0]["text"] == "transcribe:  4"
    )


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("/embed", {"text": "a"}, 400),  # which of two models?
        ("/embed", {"model": "nobody", "text": "a"}, 404),
        ("/embed", {"model": "speech", "text": "a"}, 400),
        ("/embed", {"model": "pair", "text": "bad"}, 400),
        ("/embed", {"model": "pair"}, 400),
        ("/embed", {"model": "pair", "text": ""}, 400),
        ("/embed", {"model": "pair", "text": "a", "items": [{"text": "a"}]}, 400),
        ("/embed", {"model": "pair", "items": [{"video": "a"}]}, 400),
        ("/embed", {"model": "pair", "items": [{"text": "a"}] * 300}, 413),
        ("/embed", {"model": "pair", "image": "https://example.org/a.png"}, 400),
        ("/embed", {"model": "pair", "image": "/etc/passwd"}, 400),
        ("/embed", {"model": "pair", "image": "file:///etc/passwd"}, 400),
        ("/embed", {"model": "pair", "text": "a" * 100_001}, 400),
        ("/classify", {"model": "sight", "text": "a", "top": 0}, 400),
        ("/classify", {"model": "sight", "text": "a", "top": True}, 400),
        ("/classify", {"model": "sight", "text": "a", "labels": []}, 400),
        ("/ask", {"text": "a", "max_tokens": 10**9}, 400),
        ("/ask", {"text": "a", "temperature": 1}, 400),
    ],
)
def test_bad_json(client: httpx.Client, path: str, sent: dict[str, object], status: int) -> None:
    answer = client.post(path, json=sent)
    assert answer.status_code == status and list(answer.json()) == ["error"], answer.text


HEAD = b'Content-Disposition: form-data; name="text"'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"--x", 400),
        (b"--x\r\n\r\na\r\n--x--\r\n", 400),
        (b"--x\r\n" + HEAD + b"\r\n\r\na", 400),
        (b"--y\r\n" + HEAD + b"\r\n\r\na\r\n--y--", 400),
        (b"--x\r\n" + HEAD + b"\r\nX: " + b"a" * 5000 + b"\r\n\r\na\r\n--x--\r\n", 400),
        (b"--x\r\n" + (b"A: b\r\n" * 2000) + b"\r\na\r\n--x--\r\n", 400),
        ((b"--x\r\n" + HEAD + b"\r\n\r\na\r\n") * 1100 + b"--x--\r\n", 400),
        (b"--x\r\n" + HEAD + b"\r\n\r\n\xff\r\n--x--\r\n", 400),
        (b"--x\r\n" + HEAD + b"\r\nContent-Transfer-Encoding: base64\r\n\r\nYQ==\r\n--x--\r\n", 400),
        (b"--x\r\n" + HEAD + b"\r\n\r\na\0b\r\n--x--\r\n", 400),
        (b'--x\r\nContent-Disposition: form-data; name="' + b"a" * 1000 + b'"\r\n\r\na\r\n--x--\r\n', 400),
        (b'--x\r\nContent-Disposition: attachment; name="text"\r\n\r\na\r\n--x--\r\n', 400),
        (b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\na\r\n--x--\r\n', 400),
        (b'--x\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\na\r\n--x--\r\n', 400),
    ],
)
def test_bad_forms(client: httpx.Client, body: bytes, status: int) -> None:
    answer = client.post("/ask", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == status and list(answer.json()) == ["error"], answer.text


def test_bad_boundaries(client: httpx.Client) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'x' * 100}"):
        assert client.post("/ask", content=b"--x--", headers={"Content-Type": kind}).status_code == 400


def test_parts_that_differ_in_number(client: httpx.Client) -> None:
    answer = client.post("/ask", files=[("image", ("a", b"a")), ("image", ("b", b"b"))], data={"text": "what?"})
    assert answer.status_code == 400 and "equally often" in answer.text

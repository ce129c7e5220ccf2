"""What is refused by the first lines of a request, how bodies are waited for, and what a lost client costs: over bare sockets."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fake_service import FakeService
from loopback import Served

from trimodal.serving.http.app import make_app
from trimodal.serving.http.metrics import Metrics
from trimodal.serving.http.settings import Settings
from trimodal.serving.limits import Limits
from trimodal.serving.refusals import RefusedError

LIMITS = replace(Limits(), body_bytes=20_000, body_seconds=0.5)
SETTINGS = Settings(keys=("right", "other"), hosts=("127.0.0.1", "localhost"), open_paths=("/", "/static/"))
TENSORS = [{"name": name, "datatype": "INT64", "shape": [1, 3], "data": [1, 2, 3]} for name in ("a", "b")]
GOOD = json.dumps({"inputs": TENSORS}).encode()
KEY = b"Authorization: Bearer right\r\n"


@pytest.fixture(scope="module")
def service() -> FakeService:
    return FakeService(LIMITS)


@pytest.fixture(scope="module", params=["httptools", "h11"])
def guarded(service: FakeService, request: pytest.FixtureRequest) -> Iterator[Served]:
    one = Served(make_app(service, SETTINGS), http=request.param)
    yield one
    one.close()


def talk(served: Served, *pieces: bytes, pause: float = 0.0, close: bool = False) -> bytes:
    """What the server says to `pieces`, sent with a `pause` between them, until it closes the connection or is silent."""
    with socket.create_connection(("127.0.0.1", served.port)) as line:
        line.settimeout(5)
        for piece in pieces:
            with suppress(BrokenPipeError):  # it has been told off, and the line cut
                line.sendall(piece)
            time.sleep(pause)
        if close:
            return b""
        heard = b""
        try:
            while piece := line.recv(65536):
                heard += piece
                if b"\r\n\r\n" in heard and b"onnection: close" not in heard:
                    line.settimeout(0.2)
        except (TimeoutError, ConnectionResetError):
            pass
        return heard


def post(*headers: bytes, path: bytes = b"/v2/models/adder/infer", host: bytes = b"Host: 127.0.0.1\r\n") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\n" + host + KEY + b"".join(header + b"\r\n" for header in headers) + b"\r\n"


def test_good_request(guarded: Served) -> None:
    assert talk(guarded, post(b"Content-Length: %d" % len(GOOD)), GOOD).startswith(b"HTTP/1.1 200")


def test_a_large_body_is_refused_before_it_comes(guarded: Served) -> None:
    heard = talk(guarded, post(b"Content-Length: 1000000000"))
    assert heard.startswith(b"HTTP/1.1 413") and b"onnection: close" in heard and b'{"error":' in heard


def test_a_client_that_waits_for_leave_gets_none(guarded: Served) -> None:
    heard = talk(guarded, post(b"Content-Length: 1000000000", b"Expect: 100-continue"))
    assert heard.startswith(b"HTTP/1.1 413") and b"100 Continue" not in heard
    good = talk(guarded, post(b"Content-Length: %d" % len(GOOD), b"Expect: 100-continue"), GOOD, pause=0.1)
    assert good.startswith(b"HTTP/1.1 100") and b"HTTP/1.1 200" in good


def test_a_client_that_sends_on_still_reads_the_refusal(guarded: Served) -> None:
    answer = httpx.post(f"{guarded.url}/v1/embeddings", content=bytes(3_000_000), headers={"Authorization": "Bearer right"})
    assert answer.status_code == 413 and answer.json()["error"]["type"] == "invalid_request_error"


def test_chunks_are_counted(guarded: Served) -> None:
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    assert talk(guarded, post(b"Transfer-Encoding: chunked"), chunk * 6).startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_given_up(guarded: Served) -> None:
    assert talk(guarded, post(b"Content-Length: 100"), b"{").startswith(b"HTTP/1.1 408")
    assert talk(guarded, post(b"Content-Length: 100"), *[b" "] * 8, pause=0.1).startswith(b"HTTP/1.1 408")


def test_half_a_body_is_never_answered(guarded: Served, service: FakeService) -> None:
    before = len(service.calls)
    talk(guarded, post(b"Content-Length: %d" % (len(GOOD) + 1)), GOOD, pause=0.05, close=True)
    time.sleep(0.2)
    assert len(service.calls) == before


@pytest.mark.parametrize(
    "headers",
    [
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Content-Length: -5",),
        (b"Content-Length: 5", b"Content-Length: 6"),
        (b"Content-Length: 5", b"Content-Length: 5"),
        (b"Content-Length: +5",),
        (b"Content-Length: 5_0",),
    ],
)
def test_doubtful_lengths(guarded: Served, headers: tuple[bytes, ...]) -> None:
    heard = talk(guarded, post(*headers), b"0\r\n\r\n")
    assert heard.startswith(b"HTTP/1.1 400") and heard.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "first",
    [
        post(b"Content-Length: 0", host=b""),
        post(b"Content-Length: 0", host=b"Host: a b\r\n"),
        post(b"Content-Length: 0", host=b"Host: evil.example\r\n"),
        post(b"Content-Length: 0", host=b"Host: 127.0.0.1:99999\r\n"),
        post(b"Content-Length: 0", host=b"Host: user@127.0.0.1\r\n"),
        post(b"Content-Length: 0", path=b"@evil.example/v2"),
        post(b"Content-Length: 0", host=b"Host: 127.0.0.1\r\nHost: localhost\r\n"),
    ],
)
def test_doubtful_targets(guarded: Served, first: bytes) -> None:
    assert talk(guarded, first).startswith(b"HTTP/1.1 400")


def test_too_many_headers(guarded: Served) -> None:
    for header in (b"X: " + b"a" * 40_000, b"\r\n".join(b"X%d: a" % number for number in range(200))):
        assert talk(guarded, post(b"Content-Length: 0", header))[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400")


def test_keys(guarded: Served) -> None:
    def ask(path: str, **headers: str) -> httpx.Response:
        return httpx.get(guarded.url + path, headers=headers)

    assert ask("/v2").status_code == 401 and ask("/v2").headers["www-authenticate"] == "Bearer"
    assert ask("/v1/models").json()["error"]["code"] == "invalid_api_key"
    for wrong in ("Bearer wrong", "Bearer", "Basic right", "right", "Bearer righ"):
        assert ask("/v2", authorization=wrong).status_code == 401
    assert ask("/v2", authorization="Bearer right").status_code == ask("/v2", authorization="bearer other").status_code == 200
    assert ask("/v2/health/live").status_code == ask("/v2/health/ready").status_code == 200
    assert ask("/metrics").status_code == 401 and ask("/static/a.js").status_code == 404 and ask("/").status_code == 404


def test_pages_of_other_hosts_may_not_ask(guarded: Served) -> None:
    def ask(origin: str) -> int:
        return httpx.get(guarded.url + "/v2", headers={"Origin": origin, "Authorization": "Bearer right"}).status_code

    assert ask("https://evil.example") == ask("null") == 403
    assert ask(guarded.url) == 200


def test_pages_of_named_hosts_may_ask(service: FakeService) -> None:
    served = Served(make_app(service, Settings(keys=("right",), origins=("https://friend.example",))))
    friend = {"Origin": "https://friend.example"}
    try:
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        before = httpx.options(f"{served.url}/v1/embeddings", headers={**friend, **asks})
        assert before.status_code == 200 and before.headers["access-control-allow-origin"] == "https://friend.example"
        answer = httpx.get(f"{served.url}/v2", headers={**friend, "Authorization": "Bearer right"})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://friend.example"
        assert httpx.get(f"{served.url}/v2", headers=friend).status_code == 401
        foe = httpx.get(f"{served.url}/v2", headers={"Origin": "https://evil.example", "Authorization": "Bearer right"})
        assert foe.status_code == 403 and "access-control-allow-origin" not in foe.headers
    finally:
        served.close()


def test_unknown_paths_and_methods(guarded: Served) -> None:
    with httpx.Client(base_url=guarded.url, headers={"Authorization": "Bearer right"}) as client:
        assert client.get("/nothing").json() == {"error": "there is nothing at this path"}
        assert client.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
        answer = client.get("/v2/models/adder/infer")
        assert answer.status_code == 405 and answer.headers["allow"] == "POST" and list(answer.json()) == ["error"]
        assert client.request("TRACE", "/v2").status_code == 405 and client.get("/v2/").status_code == 404


def test_not_ready_is_503_with_a_wait(guarded: Served, service: FakeService) -> None:
    service.is_ready = False
    try:
        answer = httpx.get(f"{guarded.url}/v2/health/ready")
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert httpx.get(f"{guarded.url}/v2/health/live").status_code == 200
    finally:
        service.is_ready = True


def test_work_of_a_lost_client_is_dropped(guarded: Served, service: FakeService) -> None:
    before, service.hold = service.cancelled, 5.0
    try:
        talk(guarded, post(b"Content-Length: %d" % len(GOOD)), GOOD, pause=0.1, close=True)
        for _ in range(100):
            if service.cancelled > before:
                break
            time.sleep(0.02)
    finally:
        service.hold = 0.0
    assert service.cancelled == before + 1


def test_bodies_that_are_held_are_bounded(service: FakeService) -> None:
    app = make_app(service, Settings(bodies_bytes=1000))
    served = Served(app)
    try:
        answer = httpx.post(f"{served.url}/v2/models/adder/infer", content=b" " * 2000)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert httpx.post(f"{served.url}/v2/models/adder/infer", content=GOOD).status_code == 200
    finally:
        served.close()


def test_metrics_have_bounded_labels(guarded: Served) -> None:
    with httpx.Client(base_url=guarded.url, headers={"Authorization": "Bearer right"}) as client:
        for number in range(5):
            client.post(f"/v2/models/stranger{number}/infer", content=b"{}")
        client.post("/v2/models/adder/infer", content=GOOD)
        text = client.get("/metrics").text
    assert 'trimodal_requests_total{model="",route="/v2/models/{name}/infer",status="404"} 5.0' in text and "stranger" not in text
    assert 'trimodal_requests_total{model="adder",route="/v2/models/{name}/infer",status="200"}' in text
    assert 'trimodal_model_total{model="adder",what="items"}' in text and 'trimodal_queued_items{model="adder"} 0.0' in text


def test_an_answer_is_worth_more_than_its_count(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The folder of the counters may be taken away while the server runs, as logind does at the end of a login."""
    metrics = Metrics(FakeService())

    def fail(*labels: str) -> None:
        raise FileNotFoundError("counter_1.db")

    monkeypatch.setattr(metrics.requests, "labels", fail)
    metrics.note("/embed", "", 200, 0.1)
    metrics.note("/embed", "", 200, 0.1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "gone"))
    with pytest.raises(RefusedError, match="counters are gone") as refused:
        metrics.write()
    assert int(refused.value.status) == 503

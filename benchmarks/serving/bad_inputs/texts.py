"""Rows 60 to 62: texts; 63 to 67: addresses, of which none is followed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np

from benchmarks.serving.bad_inputs.cases import Case, Found, Place, Row, judge, post_json
from benchmarks.serving.bad_inputs.fetching import list_redirected, list_slow
from benchmarks.serving.bad_inputs.files import make_png
from benchmarks.serving.bad_inputs.sockets import Reply, as_json, talk

PATH = "/v1/embeddings"


def list_rows() -> list[Row]:
    """The rows."""
    return [*_list_texts(), *_list_addresses()]


def _case(label: str, text: str, *allowed: int, **more: Any) -> Case:
    return Case(label, post_json(PATH, {"model": "clip", "input": text}), allowed or (400,), **more)


def _ask_vectors(place: Place, texts: list[str]) -> Any:
    told = as_json(talk(place.port, post_json(PATH, {"model": "clip", "input": texts})))
    return np.array([one["embedding"] for one in told["data"]])


def _flagged(reply: Reply) -> str:
    told = as_json(reply) if reply.status == 200 else None
    return "" if told is None or told["usage"]["prompt_tokens"] > 0 else "the number of tokens is not told"


def _list_texts() -> list[Row]:
    def mixed(place: Place) -> Found:
        texts = ["a", "cat " * 60, "a red square above a blue one", "dog"]
        apart = float(np.abs(_ask_vectors(place, texts) - np.concatenate([_ask_vectors(place, [one]) for one in texts])).max())
        return Found("200", "" if apart < 1e-4 else f"vectors are {apart:.5f} from those alone")

    def same(first: str, second: str) -> Callable[[Place], Found]:
        def attempt(place: Place) -> Found:
            found = _ask_vectors(place, [first, second])
            return Found("200", "" if np.isfinite(found).all() else "numbers that are none")

        return attempt

    return [
        Row(60, "longer than the context; a word of 10 MB; 10^6 marks", "400, or cut and told; in bounded time", [
            _case("20,000 words", "cat " * 20_000, 200, 400, 413, check=_flagged), _case("a word of 10 MB", "a" * 10_000_000, 400, 413),
            _case("10^6 combining marks", "a" + "\u0301" * 10**6, 400, 413), _case("99,999 marks", "a" + "\u0301" * 99_998, 200, 400, 413),
            _case("a word of 99,999", "a" * 99_999, 200, 400, 413, check=_flagged),
        ], "a text for a vector is cut at the model's length; usage tells what was read"),
        Row(61, "control characters, bidi, blanks, special tokens", "defined", [
            _case("blanks", " \t\n "), _case("NUL", "a\0b"), _case("control characters", "\x01\x02\x1b[31m", 200, 400),
            _case("bidi", "\u202eabc\u202c", 200), _case("special tokens", "<|startoftext|> a <|endoftext|> b", 200),
            _case("a byte order mark", "\ufeffa cat", 200), _case("no characters", "\ufffe\uffff", 200, 400),
            Case("beside others", attempt=same("<|endoftext|>", "a cat")),
        ], "they are text like any other; NUL and blanks are refused"),
        Row(62, "a batch of 1 and of 77 tokens", "the vectors that each has alone", [Case("4 texts", attempt=mixed)]),
    ]  # fmt: skip


class _Listener:
    """A server of this machine that a fetcher would reach; `asked` counts what came."""

    def __init__(self) -> None:
        self.asked = 0
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told.asked += 1
                self.send_response(302)
                self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])


def _send_addresses(make: Callable[[int], list[str]]) -> Callable[[Place], Found]:
    """Each address in each place where an image can stand; none may be asked for."""

    def attempt(place: Place) -> Found:
        listener, said = _Listener(), set[str]()
        try:
            for address in make(listener.port):
                for request in _list_places(address):
                    found = judge(talk(place.port, request), (400, 415))
                    said.add(found.said)
                    if found.fault:
                        return Found(found.said, f"{address[:60]}: {found.fault}")
        finally:
            listener.server.shutdown()
        return Found("/".join(sorted(said)), "" if not listener.asked else f"{listener.asked} were fetched")

    return attempt


def _list_places(address: str) -> list[bytes]:
    part = {"type": "image_url", "image_url": {"url": address}}
    return [
        post_json(PATH, {"model": "clip", "modality": "image", "input": [address]}),
            post_json(PATH, {"model": "clip", "input": [{"image": address}]}),
        post_json(PATH, {"model": "clip", "messages": [{"role": "user", "content": [part]}]}),
            post_json("/embed", {"model": "clip", "image": address}),
        post_json("/transcribe", {"model": "whisper", "audio": address}),
    ]  # fmt: skip


def _list_addresses() -> list[Row]:
    secret = make_png()[:4].hex()
    return [
        Row(63, "any http(s) address", "400", [
            Case("http, https", attempt=_send_addresses(lambda port: [f"http://127.0.0.1:{port}/a.png", "https://example.org/a.png",
            "HTTP://a"])),
        ]),
        Row(64, "a host that redirects to 169.254.169.254", "400 per hop", [
            Case("none is asked", attempt=_send_addresses(lambda port: [f"http://127.0.0.1:{port}/redirect", f"//127.0.0.1:{port}/a"])),
            *list_redirected(),
        ], "off as it comes; with --media-host each hop is looked at"),
        Row(65, "other forms of addresses; credentials; file: ftp: gopher:", "400", [
            Case("17 forms", attempt=_send_addresses(lambda port: [
                f"http://2130706433:{port}/a", f"http://0177.0.0.1:{port}/a", f"http://[::ffff:127.0.0.1]:{port}/a",
                f"http://0x7f000001:{port}/",
                f"http://user:{secret}@127.0.0.1:{port}/", "ftp://127.0.0.1/a", "gopher://127.0.0.1/_a", "file:///etc/passwd",
                "dict://127.0.0.1/",
                "ldap://127.0.0.1/", "jar:http://a!/b", "s3://a/b", f"http://localhost.:{port}/", f"http://127.1:{port}/", "blob:http://a",
                "javascript:1",
                f"\thttp://127.0.0.1:{port}/",
            ])),
        ], "off as it comes"),
        Row(66, "a remote body that never ends", "cap and deadline", [
            Case("none is asked", attempt=_send_addresses(lambda port: [f"http://127.0.0.1:{port}/endless", "http://10.255.255.1/slow"])),
            *list_slow(),
        ], "off as it comes; with --media-host 20 MiB, 10 s, nothing unpacked"),
        Row(67, "file:// or a path as image", "400", [
            Case("paths", attempt=_send_addresses(lambda port: [
                "file:///etc/passwd", "file://localhost/etc/hosts", "/etc/passwd", "../../etc/passwd", "~/.ssh/id_rsa", "C:\\a.png",
                "\\\\host\\a",
            ])),
        ]),
    ]  # fmt: skip

"""What is tried: rows as `serving.md` numbers them, each with the variants in which it can come."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving.bad_inputs.sockets import Reply, make_request, show_status, talk

_LEAKS = (
    (re.compile(rb"0x[0-9a-fA-F]{5,}"), "an address in memory"), (re.compile(rb"Traceback|File \\?\"|line \d+, in "), "a traceback"),
    (re.compile(rb"(?<![A-Za-z])/(work|usr|tmp|home|root|etc|proc|opt)/|site-packages|\.py\b"), "a path"),
    (re.compile(rb"object at|BytesIO|libsndfile|PIL\.|onnxruntime::"), "a library's words"),
)  # fmt: skip
_MOST_ERROR = 2000


@dataclass(frozen=True)
class Found:
    """What came of a variant: what was said (a status or an exit code), what is wrong with it (nothing: ""), the seconds."""

    said: str
    fault: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Place:
    """Where things are tried: the service's ports, the folder for what is written, the folders that are served."""

    port: int
    grpc_port: int
    scratch: Path
    models: Mapping[str, Path]
    pid: int = 0
    quick: bool = False


@dataclass(frozen=True)
class Case:
    """A variant. `request` is sent and answered with one of `allowed`; or `attempt` does what is more than one request.

    `declared`: what is wrong stands in a head or header, and is refused before anything is decoded or read. `slow`: takes seconds by its
    nature, and is begun before all others. `check` looks at an answer that may be right: what is wrong with it, else ""."""

    label: str
    request: bytes = b""
    allowed: tuple[int, ...] = (400,)
    attempt: Callable[[Place], Found] | None = None
    declared: bool = False
    slow: bool = False
    check: Callable[[Reply], str] | None = None
    extra: bool = False

    @property
    def soaks(self) -> bool:
        """Whether it can be sent thousands of times."""
        return self.attempt is None and not self.slow


@dataclass(frozen=True)
class Row:
    """A numbered bad input, what is required, and where our answer is another one that the row allows."""

    number: int
    what: str
    required: str
    cases: Sequence[Case]
    note: str = ""


@dataclass
class Outcome:
    """What came of a row: what was said how often, and what was wrong."""

    row: Row
    said: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    declared: list[tuple[float, str]] = field(default_factory=list)


def try_case(case: Case, place: Place) -> Found:
    """Send it, and look at what comes."""
    if case.attempt is not None:
        try:
            return case.attempt(place)
        except Exception as failed:  # whatever the attempt met is what there is to tell
            return Found("broke", f"{type(failed).__name__}: {failed}"[:300])
    reply = talk(place.port, case.request)
    return judge(reply, case.allowed, case.check)


def judge(reply: Reply, allowed: Sequence[int], check: Callable[[Reply], str] | None = None) -> Found:
    """What is wrong with an answer."""
    said = show_status(reply.status)
    if reply.status not in allowed:
        return Found(said, f"{said}, not {' or '.join(map(show_status, allowed))}: {reply.body[:160]!r}", reply.seconds)
    fault = find_leak(reply) if reply.status >= 400 else ""
    if not fault and check is not None:
        fault = check(reply)
    return Found(said, fault, reply.seconds)


def find_leak(reply: Reply) -> str:
    """What an error tells that it must not, or that it is no error of ours at all."""
    if len(reply.body) > _MOST_ERROR:
        return f"an error of {len(reply.body)} bytes"
    for pattern, what in _LEAKS:
        if pattern.search(reply.body):
            return f"tells {what}: {reply.body[:160]!r}"
    try:
        told = json.loads(reply.body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"no error in JSON: {reply.body[:80]!r}"
    words = told.get("message") if isinstance(told, dict) else told
    return "" if isinstance(words, str) and words else "an error without words"


def post_json(path: str, sent: Any, headers: Mapping[str, str] | None = None) -> bytes:
    """A request with JSON; bytes and texts go as they are."""
    body = sent if isinstance(sent, bytes) else sent.encode() if isinstance(sent, str) else json.dumps(sent).encode()
    return make_request(path, body, {"Content-Type": "application/json", **(headers or {})})


def post_file(path: str, data: bytes, kind: str) -> bytes:
    """A request with a bare file."""
    return make_request(path, data, {"Content-Type": kind})

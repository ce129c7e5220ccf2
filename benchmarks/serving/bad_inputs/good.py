"""Good requests, whose right answers are taken before anything bad is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.bad_inputs.cases import post_file, post_json
from benchmarks.serving.bad_inputs.files import make_png, make_wav
from benchmarks.serving.bad_inputs.sockets import as_json, talk

NEAR = 1e-4
TENSORS: list[dict[str, Any]] = [
    {"name": "floats", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3.5]},
    {"name": "small", "datatype": "INT8", "shape": [1, 3], "data": [-4, 0, 4]},
    {"name": "tiny", "datatype": "UINT8", "shape": [1, 3], "data": [10, 20, 200]},
    {"name": "keep", "datatype": "BOOL", "shape": [1, 3], "data": [True, True, False]},
]
SUM = [7.0, 22.0, 0.0]
"""By the definition of `tensors.add`."""
ADD = "/v2/models/tensors.add/infer"


@dataclass(frozen=True)
class Good:
    """A good request, and what reads the numbers or words of its answer."""

    name: str
    request: bytes
    read: Callable[[Any], Any]


def list_good() -> list[Good]:
    """One per model and protocol."""
    return [
        Good("tensors, v2", post_json(ADD, {"inputs": TENSORS}), lambda told: told["outputs"][0]["data"]),
        Good("CLIP, an image", post_file("/embed?model=clip", make_png(), "image/png"), lambda told: told["answers"][0]["embedding"]),
        Good("CLIP, a text", post_json("/v1/embeddings", {"model": "clip", "input": "a cat"}), lambda told: told["data"][0]["embedding"]),
        Good("Whisper", post_json_sound(), lambda told: told["answers"][0]["text"]),
    ]  # fmt: skip


def post_json_sound() -> bytes:
    """A short sound to be transcribed to a few tokens."""
    return post_file("/transcribe?model=whisper&max_tokens=4", make_wav(), "audio/wav")


def take_answers(port: int) -> dict[str, Any]:
    """The right answers by the request's name; those of `tensors` must be what its graph says."""
    found = {good.name: ask(port, good) for good in list_good()}
    assert found["tensors, v2"] == SUM, found
    return found


def ask(port: int, good: Good) -> Any:
    """What the service answers now; what it says instead where that is no answer."""
    reply = talk(port, good.request)
    if reply.status != 200:
        return f"status {reply.status}: {reply.body[:120]!r}"
    return good.read(as_json(reply))


def find_wrong(port: int, right: dict[str, Any], first_only: bool = False) -> str:
    """Which good request gets another answer now, else ""."""
    for good in list_good()[: 2 if first_only else None]:
        found = ask(port, good)
        if not _is_near(found, right[good.name]):
            return f"then {good.name}: {json.dumps(found)[:120]}"
    return ""


def _is_near(found: Any, right: Any) -> bool:
    if isinstance(right, str) or not isinstance(found, list):
        return bool(found == right)
    return len(found) == len(right) and max(abs(a - b) for a, b in zip(found, right)) < NEAR

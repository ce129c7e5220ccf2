"""Rows 78, 80 and 86: what clients must not be able to do, and what their names must not become."""

from __future__ import annotations

import re

from benchmarks.serving.bad_inputs.cases import Case, Found, Place, Row, post_json
from benchmarks.serving.bad_inputs.sockets import make_request, talk

_STRANGERS = 200
_ABSENT = (
    "/v2/systemsharedmemory/status", "/v2/systemsharedmemory/region/a/register", "/v2/cudasharedmemory/status",
    "/v2/cudasharedmemory/region/a/register",
    "/v2/logging", "/v2/trace/setting", "/v2/models/clip/trace/setting", "/docs", "/redoc", "/admin", "/debug", "/v1/files",
    "/v1/load_lora_adapter",
    "/invocations", "/models", "/shutdown", "/v2/repository/models", "/openapi.json/..", "/playground/../../etc/passwd",
    "/playground/%2e%2e/%2e%2e/etc/passwd",
)  # fmt: skip


def list_rows() -> list[Row]:
    """The rows."""
    load = {"parameters": {"config": '{"platform": "python"}', "file:1/model.py": "aW1wb3J0IG9z"}}
    return [
        Row(78, "loading a model as a client; from an address", "off", [
            *(Case(f"{verb} {name}", post_json(f"/v2/repository/models/{name}/{verb}", load), (403, 404))
              for verb in ("load", "unload") for name in ("clip", "evil", "..%2fevil")),
            Case("from an address", post_json("/models?url=http://evil.example/a.mar", {}), (404, 405)),
            Case("a new model by OpenAI's route", post_json("/v1/models", {"id": "evil"}), (404, 405)),
        ], "403: there are such routes in Triton, and they are refused"),
        Row(80, "shared memory, and other endpoints for convenience", "absent", [
            *(Case(f"{method} {path}", make_request(path, b"" if method == "GET" else b"{}", method=method), (404, 405))
              for path in _ABSENT for method in ("GET", "POST")),
            Case("TRACE", make_request("/v2", method="TRACE"), (405,)),
            Case("DELETE", make_request("/v2/models/clip", method="DELETE"), (405,)),
        ]),
        Row(86, "names from clients in metrics", "a bounded number", [Case(f"{_STRANGERS} strangers", attempt=_count_series)]),
    ]  # fmt: skip


def _count_series(place: Place) -> Found:
    def read() -> list[str]:
        text = talk(place.port, make_request("/metrics", method="GET")).body.decode()
        return [re.split(r"[ ]", line)[0] for line in text.splitlines() if line and not line.startswith("#")]

    read()  # which is counted too
    for number in range(2 * _STRANGERS):
        if number == _STRANGERS:
            before = len(read())
        talk(place.port, post_json(f"/v2/models/stranger{number}/infer", {}, {"X-Stranger": f"stranger{number}"}))
        talk(place.port, post_json(f"/stranger{number}", {}))
        talk(place.port, make_request("/v2", method=f"STRANGER{number}"))
    after = read()
    strangers = [line for line in after if "stranger" in line.lower()]
    fault = f"{before} series became {len(after)}" if len(after) > before else f"{strangers[:2]}" if strangers else ""
    return Found(f"{len(after)} series", fault)

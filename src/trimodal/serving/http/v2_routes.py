"""The routes of the Open Inference Protocol, and of Triton's extensions to it that only tell."""

from __future__ import annotations

import zlib

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from trimodal.serving.http.doors import Door, make_route, note_model, read_apart, work_for
from trimodal.serving.open_inference import reports
from trimodal.serving.open_inference.calls import call_service
from trimodal.serving.open_inference.directory import Entry, find_entry
from trimodal.serving.open_inference.requests import read_request
from trimodal.serving.open_inference.responses import write_response
from trimodal.serving.refusals import RefusedError
from trimodal.serving.strict_json import check_keys, read_object

_PACKED_FROM = 1024
"""Bytes of an answer from which it is packed for who takes that."""


def list_v2_routes(door: Door) -> list[Route]:
    """All routes below `/v2`."""
    routes = [
        make_route(door, "/v2", tell_server), make_route(door, "/v2/health/live", tell_live),
        make_route(door, "/v2/health/ready", tell_ready),
        make_route(door, "/v2/models/stats", tell_all_statistics), make_route(door, "/v2/repository/index", tell_index, ("POST",)),
        make_route(door, "/v2/repository/models/{name}/load", refuse_control, ("POST",)),
        make_route(door, "/v2/repository/models/{name}/unload", refuse_control, ("POST",)),
    ]  # fmt: skip
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            make_route(door, model, tell_metadata), make_route(door, f"{model}/ready", tell_model_ready),
            make_route(door, f"{model}/config", tell_config),
            make_route(door, f"{model}/stats", tell_statistics), make_route(door, f"{model}/infer", infer, ("POST",)),
        ]  # fmt: skip
    return routes


async def tell_server(door: Door, request: Request) -> ASGIApp:
    """GET /v2."""
    return JSONResponse(reports.tell_server())


async def tell_live(door: Door, request: Request) -> ASGIApp:
    """GET /v2/health/live: this process answers."""
    return JSONResponse({"live": True})


async def tell_ready(door: Door, request: Request) -> ASGIApp:
    """GET /v2/health/ready: 503 while models are loaded or drained."""
    return _tell_ready(door, {})


async def tell_model_ready(door: Door, request: Request) -> ASGIApp:
    """GET /v2/models/NAME/ready."""
    return _tell_ready(door, {"name": _find(door, request).name})


async def tell_metadata(door: Door, request: Request) -> ASGIApp:
    """GET /v2/models/NAME."""
    return JSONResponse(reports.tell_metadata(_find(door, request)))


async def tell_config(door: Door, request: Request) -> ASGIApp:
    """GET /v2/models/NAME/config."""
    return JSONResponse(reports.tell_config(_find(door, request), door.limits.batch))


async def tell_statistics(door: Door, request: Request) -> ASGIApp:
    """GET /v2/models/NAME/stats."""
    return JSONResponse({"model_stats": [reports.tell_statistics(door.service, _find(door, request))]})


async def tell_all_statistics(door: Door, request: Request) -> ASGIApp:
    """GET /v2/models/stats."""
    return JSONResponse({"model_stats": reports.tell_all_statistics(door.service)})


async def tell_index(door: Door, request: Request) -> ASGIApp:
    """POST /v2/repository/index: `{"ready": true}` for those only that are ready."""
    async with door.reader.hold(request) as body:
        asked = read_object(body, door.limits.json_depth) if body else {}
    check_keys(asked, ("ready", "repository_name"), "the request")
    index = reports.tell_index(door.service)
    return JSONResponse([told for told in index if told["state"] == "READY"] if asked.get("ready") is True else index)


async def refuse_control(door: Door, request: Request) -> ASGIApp:
    """POST /v2/repository/models/NAME/load and /unload: to load a model is to run it, which is the operator's to say."""
    raise RefusedError(403, "models are loaded and unloaded by the operator, not by clients")


async def infer(door: Door, request: Request) -> ASGIApp:
    """POST /v2/models/NAME/infer."""
    entry = _find(door, request)
    note_model(request, entry.card.name)
    async with door.reader.hold(request) as body:
        length = request.headers.get("inference-header-content-length")
        asked = await read_apart(body, lambda body: read_request(entry, body, length, door.limits))
        told = write_response(await work_for(request, call_service(door.service, asked)))
    headers = {} if told.header_length is None else {"Inference-Header-Content-Length": str(told.header_length)}
    kind = "application/json" if told.header_length is None else "application/octet-stream"
    return _pack(Response(told.data, media_type=kind, headers=headers), request.headers.get("accept-encoding", ""))


def _find(door: Door, request: Request) -> Entry:
    return find_entry(door.service, request.path_params["name"], request.path_params.get("version", ""))


def _tell_ready(door: Door, told: dict[str, str]) -> ASGIApp:
    if not door.service.ready:
        raise RefusedError(503, "not ready: loading or draining", retry_after=1)
    return JSONResponse({**told, "ready": True})


def _pack(response: Response, accepted: str) -> Response:
    """`response` packed as one of `accepted`, in the client's order; a quality of 0 is a refusal."""
    wishes = [part.split(";") for part in accepted.lower().split(",")[:16]]
    taken = [name.strip() for name, *rest in wishes if not any(q.replace(" ", "") in ("q=0", "q=0.0") for q in rest)]
    packing = next((name for name in taken if name in ("gzip", "deflate")), None)
    if packing is None or len(response.body) < _PACKED_FROM:
        return response
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | (16 if packing == "gzip" else 0))
    body = packer.compress(response.body) + packer.flush()
    kept = {name: value for name, value in response.headers.items() if name != "content-length"}
    return Response(body, response.status_code, {**kept, "Content-Encoding": packing, "Vary": "Accept-Encoding"})

"""The OpenAPI 3.1 file of a running service: every route, with the names that are served, what goes in, what comes out, and all refusals.

The names are those of the models that are there, so that a program which reads the file finds something behind each path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trimodal.serving.http.openapi_schemas import SCHEMAS, TEXT, WHOLE, Schema, refer
from trimodal.serving.open_inference.directory import list_entries
from trimodal.serving.open_inference.reports import tell_version
from trimodal.serving.requests import TASKS, ModelCard

REFUSALS = {
    "400": "malformed, or not what is taken",
    "401": "the key is missing or unknown",
    "403": "not for clients, or a web page of another host",
    "404": "no such model, version or path",
    "405": "the path does not take that method",
    "408": "the body did not come in time",
    "413": "more than is taken",
    "415": "a kind of data that is not taken",
    "429": "the queue is full",
    "431": "too many headers",
    "500": "a fault of the server",
    "503": "loading, draining, or too much at once",
    "504": "no answer in the time that was given",
}
"""What each status means, on all routes."""

_TELLING, _CARRYING = ("400", "401", "403", "404", "405", "431", "500"), tuple(REFUSALS)

Operation = dict[str, Any]


def write_openapi(cards: Sequence[ModelCard], needs_key: bool = False) -> dict[str, Any]:
    """The file, as an object of JSON."""
    paths: dict[str, dict[str, Operation]] = {**_tell_service(), **_list_v2(cards), **_list_openai(cards), **_list_tasks(cards)}
    for path, operations in paths.items():
        for method, operation in operations.items():
            operation["operationId"] = f"{method}{path}".translate(str.maketrans("/{}.", "____"))
    security = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if needs_key else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "trimodal", "version": tell_version(), "description": "Compressed multimodal models, served."},
        "paths": paths,
        "components": {"schemas": SCHEMAS, **security},
        **({"security": [{"key": []}]} if needs_key else {}),
    }


def _tell_service() -> dict[str, dict[str, Operation]]:
    return {
        "/metrics": {"get": _tell("Metrics for Prometheus", {"text/plain": {"schema": TEXT}})},
        "/openapi.json": {"get": _tell("This file", _json({"type": "object"}))},
        "/v2": {"get": _tell("The server", _json(refer("Server")))},
        "/v2/health/live": {"get": _tell("Whether the process answers", _json(refer("Live")))},
        "/v2/health/ready": {"get": _tell("Whether all models answer", _json(refer("Ready")), also=("503",))},
        "/v2/models/stats": {"get": _tell("Statistics of all names", _json(refer("Statistics")))},
        "/v2/repository/index": {"post": _carry("All names", _json(refer("Index")), _json(refer("IndexRequest")), needed=False)},
    }


def _list_v2(cards: Sequence[ModelCard]) -> dict[str, dict[str, Operation]]:
    name = _parameter("name", list(list_entries(cards)))
    version = _parameter("version", sorted({card.version for card in cards}))
    paths: dict[str, dict[str, Operation]] = {}
    for verb in ("load", "unload"):
        paths[f"/v2/repository/models/{{name}}/{verb}"] = {
            "post": {"summary": "Always refused", "parameters": [name], "responses": _refuse(_CARRYING, "Error")}
        }
    header = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "required": False,
        "schema": {**WHOLE, "minimum": 1},
        "description": "Bytes of JSON before binary data",
    }
    for path, named in (("/v2/models/{name}", [name]), ("/v2/models/{name}/versions/{version}", [name, version])):
        sent = {"application/json": {"schema": refer("InferRequest")}, "application/octet-stream": {"schema": {}}}
        answered = {"application/json": {"schema": refer("InferResponse")}, "application/octet-stream": {"schema": {}}}
        paths[path] = {"get": _tell("Inputs and outputs", _json(refer("Metadata")), named)}
        paths[f"{path}/ready"] = {"get": _tell("Whether the model answers", _json(refer("Ready")), named, also=("503",))}
        paths[f"{path}/config"] = {"get": _tell("Configuration, in Triton's words", _json(refer("Config")), named)}
        paths[f"{path}/stats"] = {"get": _tell("Statistics", _json(refer("Statistics")), named)}
        paths[f"{path}/infer"] = {"post": _carry("Tensors in, tensors out", answered, sent, [*named, header])}
    return paths


def _list_openai(cards: Sequence[ModelCard]) -> dict[str, dict[str, Operation]]:
    name = _parameter("name", [card.name for card in cards])
    chunks = {"application/json": {"schema": refer("ChatCompletion")}, "text/event-stream": {"schema": TEXT}}
    said = {"application/json": {"schema": refer("Transcription")}, "text/plain": {"schema": TEXT}, "text/event-stream": {"schema": TEXT}}
    form = {"multipart/form-data": {"schema": refer("TranscriptionForm")}}
    dialect = "OpenAIError"
    return {
        "/v1/models": {"get": _tell("All models", _json(refer("Models")), dialect=dialect)},
        "/v1/models/{name}": {"get": _tell("One model", _json(refer("Model")), [name], dialect=dialect)},
        "/v1/embeddings": {
            "post": _carry(
                "Vectors of texts, images, sounds", _json(refer("Embeddings")), _json(refer("EmbeddingRequest")), dialect=dialect
            )
        },
        "/v1/chat/completions": {"post": _carry("A text as an answer", chunks, _json(refer("ChatRequest")), dialect=dialect)},
        "/v1/audio/transcriptions": {"post": _carry("What is said in a sound", said, form, dialect=dialect)},
    }


def _list_tasks(cards: Sequence[ModelCard]) -> dict[str, dict[str, Operation]]:
    sent = {
        "application/json": {"schema": refer("TaskRequest")},
        "multipart/form-data": {"schema": refer("TaskForm")},
        "image/*": {"schema": {}},
        "audio/*": {"schema": {}},
    }
    return {f"/{task}": {"post": _carry(f"Files and texts: {task}", _json(refer("TaskAnswer")), sent)} for task in TASKS}


def _tell(summary: str, answer: Schema, parameters: Sequence[Schema] = (), also: Sequence[str] = (), dialect: str = "Error") -> Operation:
    return {"summary": summary, "parameters": list(parameters), "responses": {**_succeed(answer), **_refuse((*_TELLING, *also), dialect)}}


def _carry(
    summary: str, answer: Schema, sent: Schema, parameters: Sequence[Schema] = (), needed: bool = True, dialect: str = "Error"
) -> Operation:
    body = {"required": needed, "content": sent}
    responses = {**_succeed(answer), **_refuse(_CARRYING, dialect)}
    return {"summary": summary, "parameters": list(parameters), "requestBody": body, "responses": responses}


def _succeed(content: Schema) -> dict[str, Any]:
    return {"200": {"description": "The answer", "content": content}}


def _refuse(statuses: Sequence[str], dialect: str) -> dict[str, Any]:
    refused = {status: {"description": REFUSALS[status], "content": _json(refer(dialect))} for status in statuses}
    for status in ("429", "503"):
        if status in refused:
            refused[status]["headers"] = {"Retry-After": {"description": "Seconds after which to ask again", "schema": WHOLE}}
    return refused


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _parameter(name: str, values: list[str]) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values} if values else {"type": "string"}}

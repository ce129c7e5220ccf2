"""The routes of OpenAI's dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from trimodal.serving.http.doors import Door, make_route, note_model, read_apart, work_for
from trimodal.serving.http.events import EventStream
from trimodal.serving.http.uploads import read_form
from trimodal.serving.openai.chat import ChatRequest, read_chat_request, write_completion, write_end, write_piece
from trimodal.serving.openai.embeddings import read_embedding_request, write_embeddings
from trimodal.serving.openai.errors import tell_refusal
from trimodal.serving.openai.models import tell_model
from trimodal.serving.openai.transcriptions import (
    TranscriptionRequest,
    read_transcription_request,
    write_delta,
    write_transcription,
)
from trimodal.serving.refusals import RefusedError, refuse_bad
from trimodal.serving.requests import Answer, Item, Options, Task, Text, tell_tasks
from trimodal.serving.strict_json import read_object, shorten


def list_openai_routes(door: Door) -> list[Route]:
    """All routes below `/v1`."""
    return [
        make_route(door, "/v1/models", tell_models),
        make_route(door, "/v1/models/{name}", tell_one_model),
        make_route(door, "/v1/embeddings", embed, ("POST",)),
        make_route(door, "/v1/chat/completions", chat, ("POST",)),
        make_route(door, "/v1/audio/transcriptions", transcribe, ("POST",)),
    ]


async def tell_models(door: Door, request: Request) -> ASGIApp:
    """GET /v1/models."""
    return JSONResponse({"object": "list", "data": [tell_model(card) for card in door.service.list_models()]})


async def tell_one_model(door: Door, request: Request) -> ASGIApp:
    """GET /v1/models/NAME."""
    return JSONResponse(tell_model(door.service.find_model(request.path_params["name"])))


async def embed(door: Door, request: Request) -> ASGIApp:
    """POST /v1/embeddings."""
    async with door.reader.hold(request) as body:
        asked = await read_apart(body, lambda body: read_embedding_request(read_object(body, door.limits.json_depth), door.limits))
        check_task(door, request, asked.model, "embed")
        work = door.service.answer(asked.model, "embed", asked.items, asked.options, seconds=read_patience(request))
        return JSONResponse(write_embeddings(asked, await work_for(request, work)))


async def chat(door: Door, request: Request) -> ASGIApp:
    """POST /v1/chat/completions."""
    async with door.reader.hold(request) as body:
        asked = await read_apart(body, lambda body: read_chat_request(read_object(body, door.limits.json_depth), door.limits))
        check_task(door, request, asked.model, "ask")
        seconds = read_patience(request)
        item = asked.conversation.make_item(door.service.write_prompt(asked.model, asked.conversation.messages))
        if asked.streamed:
            pieces = await open_stream(door, request, asked.model, item, asked.options, seconds)
            return EventStream(_write_chat(asked, pieces), tell_refusal, "[DONE]")
        answers = await work_for(request, door.service.answer(asked.model, "ask", [item], asked.options, seconds=seconds))
        return JSONResponse(write_completion(asked, take_text(answers)))


async def transcribe(door: Door, request: Request) -> ASGIApp:
    """POST /v1/audio/transcriptions."""
    async with door.reader.hold(request) as body:
        form = read_form(body, request.headers.get("content-type", ""), door.settings.parts)
        asked = read_transcription_request(form.fields, form.files)
        check_task(door, request, asked.model, "transcribe")
        seconds = read_patience(request)
        if asked.streamed:
            pieces = await open_stream(door, request, asked.model, asked.item, asked.options, seconds)
            return EventStream(_write_deltas(pieces), tell_refusal)
        answers = await work_for(request, door.service.answer(asked.model, "transcribe", [asked.item], asked.options, seconds=seconds))
        return _answer_transcription(asked, take_text(answers))


def check_task(door: Door, request: Request, name: str, task: Task) -> None:
    """Note the model, which must do `task`.

    Raises:
        RefusedError: 404 for a model that is not served, 400 for one that does other things.
    """
    card = door.service.find_model(name)
    note_model(request, card.name)
    if task not in card.tasks:
        raise refuse_bad(f"model {shorten(name)!r} does not {task}; it {tell_tasks(card)}", "model")


def read_patience(request: Request) -> float | None:
    """The seconds that the client waits for an answer, where it says so: OpenAI's client tells its read timeout."""
    said = request.headers.get("x-stainless-read-timeout", "")
    try:
        seconds = float(said)
    except ValueError:
        return None
    return seconds if 0 < seconds < 1e9 else None


def take_text(answers: list[Answer | RefusedError]) -> Text:
    """The one answer, a text.

    Raises:
        RefusedError: it is a refusal.
    """
    (answer,) = answers
    if isinstance(answer, RefusedError):
        raise answer
    assert isinstance(answer, Text)
    return answer


async def open_stream(
    door: Door, request: Request, name: str, item: Item, options: Options, seconds: float | None
) -> AsyncIterator[str | Text]:
    """The pieces of a text, after the first of them is there: until then a refusal can still have its own status.

    Raises:
        RefusedError: what the service says before the first piece.
    """
    pieces = door.service.stream(name, item, options, seconds=seconds)
    first = await work_for(request, _take_first(pieces))
    return _chain(first, pieces)


async def _take_first(pieces: AsyncIterator[str | Text]) -> str | Text:
    return await anext(pieces)


async def _chain(first: str | Text, pieces: AsyncIterator[str | Text]) -> AsyncIterator[str | Text]:
    async with aclosing(pieces):  # type: ignore[type-var]
        yield first
        async for piece in pieces:
            yield piece


async def _write_chat(asked: ChatRequest, pieces: AsyncIterator[str | Text]) -> AsyncIterator[dict[str, Any]]:
    first = True
    async with aclosing(pieces):  # type: ignore[type-var]
        async for piece in pieces:
            if isinstance(piece, Text):
                for end in write_end(asked, piece):
                    yield end
            else:
                yield write_piece(asked, piece, first)
                first = False


async def _write_deltas(pieces: AsyncIterator[str | Text]) -> AsyncIterator[dict[str, Any]]:
    async with aclosing(pieces):  # type: ignore[type-var]
        async for piece in pieces:
            yield write_delta(piece)


def _answer_transcription(asked: TranscriptionRequest, text: Text) -> ASGIApp:
    written = write_transcription(asked, text)
    return PlainTextResponse(written) if isinstance(written, str) else JSONResponse(written)

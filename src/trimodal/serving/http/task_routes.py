"""Task routes, for people with files: `POST /classify /embed /transcribe /ask /detect`.

    a form          files in `image` and `audio`, texts in `text`, each as often as there are items; `labels` as often as there are labels
    JSON            {"model", "items": [{"image": base64 or data: URI, "audio": …, "text": …}], "labels": [], "top": 5, …},
                    or one item's fields at the top
    a bare file     `Content-Type: image/…` or `audio/…`; options in the query

`model` may be left out where one model alone does the task. The answer has one entry per item: its answer, or its `error`. Where no item
got an answer, the status is that of the first refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from trimodal.serving.http.doors import Door, Endpoint, make_route, note_model, read_apart, work_for
from trimodal.serving.http.errors import answer_refusal
from trimodal.serving.http.uploads import read_form
from trimodal.serving.limits import Limits
from trimodal.serving.openai.media import read_file
from trimodal.serving.refusals import RefusedError, refuse_bad, refuse_kind, refuse_unknown
from trimodal.serving.requests import TASKS, Answer, Boxes, Classes, Embedding, Item, Options, Task, tell_tasks
from trimodal.serving.strict_json import check_keys, read_object, take_integer, take_list, take_string

_PARTS, _OPTIONS = ("image", "audio", "text"), ("labels", "top", "max_tokens", "language", "dimensions")


def list_task_routes(door: Door) -> list[Route]:
    """One route per task."""
    return [make_route(door, f"/{task}", _make_endpoint(task), ("POST",)) for task in TASKS]


def _make_endpoint(task: Task) -> Endpoint:
    async def endpoint(door: Door, request: Request) -> ASGIApp:
        async with door.reader.hold(request) as body:
            name, items, options = await read_apart(body, lambda body: _read(door, request, body))
            model = find_model(door, task, name)
            note_model(request, model)
            answers = await work_for(request, door.service.answer(model, task, items, options))
        return _answer(request, model, answers)

    return endpoint


def find_model(door: Door, task: Task, name: str | None) -> str:
    """The name of the model that is asked.

    Raises:
        RefusedError: 404, not served; 400, does other things, or none is named and several could be meant.
    """
    if name is not None:
        card = door.service.find_model(name)
        if task not in card.tasks:
            raise refuse_bad(f"model {card.name!r} does not {task}; it {tell_tasks(card)}", "model")
        return card.name
    able = [card.name for card in door.service.list_models() if task in card.tasks]
    if not able:
        raise refuse_unknown(f"no model that is served does {task}")
    if len(able) > 1:
        raise refuse_bad(f"say which model: {', '.join(able[:10])}", "model")
    return able[0]


def tell_answer(answer: Answer | RefusedError) -> dict[str, Any]:
    """One item's answer as an object of JSON."""
    if isinstance(answer, RefusedError):
        return {"error": str(answer), "status": int(answer.status)}
    if isinstance(answer, Embedding):
        return {"embedding": [float(number) for number in answer.vector], "modality": answer.modality}
    if isinstance(answer, Classes):
        outputs = {name: [{"label": label, "score": float(score)} for label, score in row] for name, row in answer.by_output.items()}
        first, *rest = outputs
        return {"labels": outputs[first]} | ({"outputs": outputs} if rest else {})
    if isinstance(answer, Boxes):
        return {
            "boxes": [{"label": label, "score": float(score), "box": [float(side) for side in box]} for label, score, box in answer.found]
        }
    return {"text": answer.text, "finish": answer.finish, "tokens": answer.tokens}


def _answer(request: Request, model: str, answers: Sequence[Answer | RefusedError]) -> ASGIApp:
    refusals = [answer for answer in answers if isinstance(answer, RefusedError)]
    if len(refusals) == len(answers):
        return answer_refusal(refusals[0], request.scope["path"])
    return JSONResponse({"model": model, "answers": [tell_answer(answer) for answer in answers]})


def _read(door: Door, request: Request, body: bytes) -> tuple[str | None, list[Item], Options]:
    whole = request.headers.get("content-type", "")
    kind = whole.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _read_form(door, body, whole)
    if kind.startswith(("image/", "audio/")):
        said = {name: list(request.query_params.getlist(name)) for name in request.query_params}
        check_keys(said, ("model", *_OPTIONS), "the query")
        return _take_model(_take_one(said, "model")), [Item(**{kind[:5]: body})], _read_said(said, door.limits)  # type: ignore[arg-type]
    if kind in ("", "application/json"):
        return _read_json(read_object(body, door.limits.json_depth), door.limits)
    raise refuse_kind("expected a form (multipart/form-data), JSON (application/json), or a file (image/…, audio/…)", "Content-Type")


def _read_form(door: Door, body: bytes, content_type: str) -> tuple[str | None, list[Item], Options]:
    form = read_form(body, content_type, door.settings.parts)
    check_keys({**form.fields, **form.files}, ("model", *_PARTS, *_OPTIONS), "the form")
    misplaced = [name for name in form.files if name not in ("image", "audio")] + [
        name for name in form.fields if name in ("image", "audio")
    ]
    if misplaced:
        raise refuse_bad(f"{misplaced[0]}: images and sounds are files of the form, all else is text", misplaced[0])
    texts = [take_string(text, "text", door.limits.text_characters) for text in form.fields.get("text", [])]
    columns: dict[str, Sequence[Any]] = {**form.files, **({"text": texts} if texts else {})}
    return _take_model(_take_one(form.fields, "model")), _zip_items(columns, door.limits), _read_said(form.fields, door.limits)


def _read_json(sent: dict[str, Any], limits: Limits) -> tuple[str | None, list[Item], Options]:
    check_keys(sent, ("model", "items", *_PARTS, *_OPTIONS), "the request")
    if "items" in sent:
        if any(part in sent for part in _PARTS):
            raise refuse_bad("expected either items, or one item's image, audio and text", "items")
        items = [_read_item(one, f"items[{place}]", limits) for place, one in enumerate(take_list(sent["items"], "items", limits.items))]
    else:
        items = [_read_item({part: sent[part] for part in _PARTS if part in sent}, "the request", limits)]
    read: dict[str, Any] = {name: sent[name] for name in _OPTIONS if sent.get(name) is not None}
    if "labels" in read:
        read["labels"] = tuple(take_string(label, "labels", limits.text_characters) for label in take_list(read["labels"], "labels", 1000))
    return _take_model(sent.get("model")), items, _check_options(read, limits)


def _read_item(sent: Any, field: str, limits: Limits) -> Item:
    if not isinstance(sent, dict) or not sent:
        raise refuse_bad(f"{field} must be an object with image, audio or text", field)
    check_keys(sent, _PARTS, field)
    parts: dict[str, Any] = {name: read_file(sent[name], name, name, limits) for name in ("image", "audio") if name in sent}
    if "text" in sent:
        parts["text"] = take_string(sent["text"], "text", limits.text_characters)
    return Item(**parts)


def _zip_items(columns: Mapping[str, Sequence[Any]], limits: Limits) -> list[Item]:
    if not columns:
        raise refuse_bad("the form has no image, audio or text")
    count = max(map(len, columns.values()))
    if any(len(column) != count for column in columns.values()):
        raise refuse_bad(
            "image, audio and text must be given equally often: " + ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        )
    if count > limits.items:
        raise RefusedError(413, f"{count:,} items in one request; at most {limits.items:,} are taken")
    return [Item(**{name: column[place] for name, column in columns.items()}) for place in range(count)]


def _read_said(said: Mapping[str, Sequence[str]], limits: Limits) -> Options:
    """Options that were said as text."""
    read: dict[str, Any] = {}
    if said.get("labels"):
        read["labels"] = tuple(take_string(label, "labels", limits.text_characters) for label in said["labels"])
    for name in ("top", "max_tokens", "dimensions"):
        number = _take_one(said, name)
        if number is not None:
            read[name] = int(number) if number.isascii() and number.isdigit() and len(number) < 10 else number
    language = _take_one(said, "language")
    return _check_options(read | ({} if language is None else {"language": language}), limits)


def _check_options(read: dict[str, Any], limits: Limits) -> Options:
    for name, most in (("top", 1000), ("max_tokens", limits.new_tokens), ("dimensions", 1_000_000)):
        if name in read:
            take_integer(read[name], name, 1, most)
    if "language" in read:
        take_string(read["language"], "language", 64)
    return Options(**read)


def _take_one(said: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = said.get(name, ())
    if len(values) > 1:
        raise refuse_bad(f"{name} is given {len(values)} times; expected once", name)
    return values[0] if values else None


def _take_model(name: Any) -> str | None:
    return None if name is None else take_string(name, "model", 1000)

"""`/v1/chat/completions`, for models that answer a question with a text; whole, or in pieces as they are said.

The likeliest text is said, unless a `temperature` asks for one that is drawn. Wishes that would be passed over are refused.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from trimodal.serving.limits import Limits
from trimodal.serving.openai.messages import Conversation, read_messages
from trimodal.serving.refusals import refuse_bad
from trimodal.serving.requests import Options, Text, Wording
from trimodal.serving.strict_json import check_keys, drop_nulls, take_integer, take_list, take_object, take_string

_ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logprobs": (False,), "store": (False,),
    "response_format": ({"type": "text"},),
}  # fmt: skip
"""Wishes that are met in one way only; null is always taken."""

_IDLE = ("user", "metadata")
"""What may be said, and changes nothing."""

_WORDING = ("temperature", "top_p", "seed", "stop")
_KNOWN = ("model", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options", *_WORDING, *_ONLY, *_IDLE)
_MOST_STOPS, _MOST_LETTERS, _HOTTEST, _LARGEST_SEED = 4, 64, 2, 2**63 - 1


@dataclass(frozen=True)
class ChatRequest:
    """What is asked, and whether the answer goes out in pieces, with its usage at last; `created` in seconds since 1970."""

    model: str
    conversation: Conversation
    options: Options
    streamed: bool
    usage: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))


def read_chat_request(sent: dict[str, Any], limits: Limits) -> ChatRequest:
    """The request in the object `sent`.

    Raises:
        RefusedError: 400 for what is malformed, unknown or not offered; 413 and 415 for what is in the messages.
    """
    sent = drop_nulls(sent)
    check_keys(sent, _KNOWN, "the request")
    model = take_string(sent.get("model"), "model", 1000)
    for name, taken in _ONLY.items():
        if sent.get(name) is not None and (sent[name] not in taken or isinstance(sent[name], bool) != isinstance(taken[0], bool)):
            raise refuse_bad(f"{name} is not offered with this value; leave it out, or say {taken[0]}", name)
    tokens = [sent[name] for name in ("max_completion_tokens", "max_tokens") if sent.get(name) is not None]
    most = take_integer(tokens[0], "max_tokens", 1, limits.new_tokens) if tokens else None
    streamed, wishes = sent.get("stream"), take_object(sent.get("stream_options") or {}, "stream_options")
    check_keys(wishes, ("include_usage", "include_obfuscation"), "stream_options")
    if not isinstance(streamed, bool | None):
        raise refuse_bad("stream must be true or false", "stream")
    conversation = read_messages(sent.get("messages"), limits)
    options = Options(max_tokens=most, wording=_read_wording(sent))
    return ChatRequest(model, conversation, options, bool(streamed), wishes.get("include_usage") is True)


def _read_wording(sent: dict[str, Any]) -> Wording:
    temperature, top_p = (_read_number(sent, name, usual, most) for name, usual, most in (("temperature", 0, _HOTTEST), ("top_p", 1, 1)))
    if top_p == 0:
        raise refuse_bad("top_p is 0; expected a number above 0, at most 1", "top_p")
    seed = None if sent.get("seed") is None else take_integer(sent["seed"], "seed", 0, _LARGEST_SEED)
    stop = sent.get("stop", [])
    stops = [stop] if isinstance(stop, str) else take_list(stop, "stop", _MOST_STOPS) if stop else []
    return Wording(temperature, top_p, seed, tuple(take_string(one, "stop", _MOST_LETTERS) for one in stops))


def _read_number(sent: dict[str, Any], name: str, usual: float, most: float) -> float:
    value = sent.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise refuse_bad(f"{name} must be a number from 0 to {most}", name)
    return float(value)


def write_completion(request: ChatRequest, text: Text) -> dict[str, Any]:
    """The whole answer."""
    message = {"role": "assistant", "content": text.text}
    choice = {"index": 0, "message": message, "finish_reason": text.finish, "logprobs": None}
    return {**_begin(request, "chat.completion"), "choices": [choice], "usage": _tell_usage(text)}


def write_piece(request: ChatRequest, piece: str, first: bool = False) -> dict[str, Any]:
    """One piece of the answer; the `first` tells who speaks."""
    delta = {"role": "assistant", "content": piece} if first else {"content": piece}
    return {**_begin(request, "chat.completion.chunk"), "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def write_end(request: ChatRequest, text: Text) -> list[dict[str, Any]]:
    """The last pieces: why it ended, and the usage where it was asked for."""
    begin = _begin(request, "chat.completion.chunk")
    end = {**begin, "choices": [{"index": 0, "delta": {}, "finish_reason": text.finish}]}
    return [end, {**begin, "choices": [], "usage": _tell_usage(text)}] if request.usage else [end]


def _begin(request: ChatRequest, kind: str) -> dict[str, Any]:
    return {"id": request.id, "object": kind, "created": request.created, "model": request.model}


def _tell_usage(text: Text) -> dict[str, int]:
    return {"prompt_tokens": text.prompt_tokens, "completion_tokens": text.tokens, "total_tokens": text.prompt_tokens + text.tokens}

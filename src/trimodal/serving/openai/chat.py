"""`/v1/chat/completions`, for models that answer a question with a text; whole, or in pieces as they are said.

The likeliest text is said, so wishes for chance (`temperature` above 0, `top_p` below 1) are refused, as is all else that would be
passed over.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from trimodal.serving.limits import Limits
from trimodal.serving.openai.messages import Conversation, read_messages
from trimodal.serving.refusals import refuse_bad
from trimodal.serving.requests import Options, Text
from trimodal.serving.strict_json import check_keys, drop_nulls, take_integer, take_object, take_string

_ONLY: dict[str, tuple[Any, ...]] = {
    "temperature": (0,), "top_p": (1,), "n": (1,), "presence_penalty": (0,),
    "frequency_penalty": (0,), "logprobs": (False,), "store": (False,),
    "response_format": ({"type": "text"},),
}  # fmt: skip
"""Wishes that are met in one way only; null is always taken."""

_IDLE = ("user", "seed", "metadata")
"""What may be said, and changes nothing: the answer to the same question is the same."""

_KNOWN = ("model", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options", *_ONLY, *_IDLE)


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
    return ChatRequest(model, conversation, Options(max_tokens=most), bool(streamed), wishes.get("include_usage") is True)


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

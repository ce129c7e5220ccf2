"""`/v1/embeddings`: of texts, images and sounds.

    {"model", "input": "text" | ["text", …]}                              OpenAI's
    {"model", "input": ["data:image/png;base64,…"], "modality": "image"}  Infinity's; also "audio"
    {"model", "input": [{"text": …}, {"image": …}]}                       Jina's
    {"model", "messages": [{"role": "user", "content": [parts]}]}         vLLM's: one vector of all parts

`encoding_format` `base64` is little-endian float32, as OpenAI's client asks for by itself.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimodal.serving.limits import Limits
from trimodal.serving.openai.media import read_file, read_uri
from trimodal.serving.openai.messages import read_messages
from trimodal.serving.refusals import RefusedError, refuse_bad
from trimodal.serving.requests import Answer, Embedding, Item, Options
from trimodal.serving.strict_json import check_keys, drop_nulls, name_kind, take_integer, take_list, take_string

_KNOWN = ("model", "input", "messages", "modality", "encoding_format", "dimensions", "user")


@dataclass(frozen=True)
class EmbeddingRequest:
    """What is asked: vectors of `items`, packed in base64 or as numbers."""

    model: str
    items: tuple[Item, ...]
    options: Options
    packed: bool


def read_embedding_request(sent: dict[str, Any], limits: Limits) -> EmbeddingRequest:
    """The request in the object `sent`.

    Raises:
        RefusedError: 400 for what is malformed or unknown; 413 for too many inputs; 415 for other media.
    """
    sent = drop_nulls(sent)
    check_keys(sent, _KNOWN, "the request")
    model = take_string(sent.get("model"), "model", 1000)
    if ("input" in sent) == ("messages" in sent):
        raise refuse_bad("expected either input or messages", "input")
    items = (
        [read_messages(sent["messages"], limits).make_item()]
        if "messages" in sent
        else _read_input(sent["input"], sent.get("modality", "text"), limits)
    )
    encoding = sent.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise refuse_bad("encoding_format must be float or base64", "encoding_format")
    dimensions = sent.get("dimensions")
    if dimensions is not None:
        take_integer(dimensions, "dimensions", 1, 1_000_000)
    return EmbeddingRequest(model, tuple(items), Options(dimensions=dimensions), encoding == "base64")


def write_embeddings(request: EmbeddingRequest, answers: Sequence[Answer | RefusedError]) -> dict[str, Any]:
    """The object that is answered.

    Raises:
        RefusedError: that of the first input that got no vector.
    """
    vectors = []
    for place, answer in enumerate(answers):
        if isinstance(answer, RefusedError):
            raise RefusedError(answer.status, f"input[{place}]: {answer}", retry_after=answer.retry_after, field=f"input[{place}]")
        assert isinstance(answer, Embedding)
        vectors.append(answer)
    tokens = sum(vector.tokens for vector in vectors)
    data = [{"object": "embedding", "index": place, "embedding": _write(vector, request.packed)} for place, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": request.model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _read_input(value: Any, modality: Any, limits: Limits) -> list[Item]:
    if modality not in ("text", "image", "audio"):
        raise refuse_bad("modality must be text, image or audio", "modality")
    values = [value] if isinstance(value, str) else take_list(value, "input", limits.items)
    return [_read_item(one, modality, f"input[{place}]", limits) for place, one in enumerate(values)]


def _read_item(value: Any, modality: str, field: str, limits: Limits) -> Item:
    if isinstance(value, dict):
        return _read_parts(value, field, limits)
    if not isinstance(value, str):
        raise refuse_bad(f"{field} is {name_kind(value)}; expected a string: arrays of tokens are not taken", field)
    if modality == "text":
        return Item(text=take_string(value, field, limits.text_characters))
    return Item(**{modality: read_uri(value, modality, field, limits)})  # type: ignore[arg-type]


def _read_parts(value: dict[str, Any], field: str, limits: Limits) -> Item:
    check_keys(value, ("image", "audio", "text"), field)
    if not value:
        raise refuse_bad(f"{field} is empty; expected image, audio or text", field)
    parts: dict[str, Any] = {name: read_file(value[name], name, f"{field}.{name}", limits) for name in ("image", "audio") if name in value}
    if "text" in value:
        parts["text"] = take_string(value["text"], f"{field}.text", limits.text_characters)
    return Item(**parts)


def _write(vector: Embedding, packed: bool) -> str | list[float]:
    numbers = np.ascontiguousarray(vector.vector, dtype="<f4")
    return base64.b64encode(numbers.tobytes()).decode("ascii") if packed else [float(number) for number in numbers]

"""`/v1/audio/transcriptions`: a sound as a form's file, its text back.

What the model does not tell is not made up: `verbose_json` has the language only where the client said it, and no segments; `srt` and
`vtt`, which are nothing but segments, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimodal.serving.refusals import refuse_bad
from trimodal.serving.requests import Item, Options, Text
from trimodal.serving.strict_json import check_keys, take_string

FORMATS = ("json", "text", "verbose_json")
_KNOWN = ("file", "model", "language", "response_format", "temperature", "stream", "include[]", "timestamp_granularities[]")


@dataclass(frozen=True)
class TranscriptionRequest:
    """What is asked: the text of `item`, in one of `FORMATS`, or in pieces."""

    model: str
    item: Item
    options: Options
    format: str
    streamed: bool


def read_transcription_request(fields: Mapping[str, Sequence[str]], files: Mapping[str, Sequence[bytes]]) -> TranscriptionRequest:
    """The request in a form.

    Raises:
        RefusedError: 400 for what is missing, given twice, unknown or not offered.
    """
    check_keys({**fields, **files}, _KNOWN, "the form")
    if len(files.get("file", ())) != 1 or any(name != "file" for name in files):
        raise refuse_bad("expected one file, in the field file", "file")
    said = {name: _take_one(values, name) for name, values in fields.items()}
    format_ = said.get("response_format", "json")
    if format_ not in FORMATS:
        raise refuse_bad(f"response_format must be {', '.join(FORMATS)}", "response_format")
    if said.get("temperature", "0") not in ("0", "0.0"):
        raise refuse_bad("temperature is not offered; leave it out, or say 0", "temperature")
    for name in ("include[]", "timestamp_granularities[]"):
        if name in said:
            raise refuse_bad(f"{name} is not offered", name)
    if said.get("stream", "false").lower() not in ("true", "false"):
        raise refuse_bad("stream must be true or false", "stream")
    language = take_string(said["language"], "language", 64) if said.get("language") else None
    model = take_string(said.get("model"), "model", 1000)
    return TranscriptionRequest(
        model, Item(audio=files["file"][0]), Options(language=language), format_, said.get("stream", "").lower() == "true"
    )


def write_transcription(request: TranscriptionRequest, text: Text) -> dict[str, Any] | str:
    """What is answered: an object, or the bare text."""
    if request.format == "text":
        return text.text + "\n"
    if request.format == "json":
        return {"text": text.text}
    language = {} if request.options.language is None else {"language": request.options.language}
    return {"task": "transcribe", **language, "text": text.text}


def write_delta(piece: str | Text) -> dict[str, Any]:
    """One piece of a text that is told as it is said, or its end."""
    if isinstance(piece, Text):
        return {"type": "transcript.text.done", "text": piece.text}
    return {"type": "transcript.text.delta", "delta": piece}


def _take_one(values: Sequence[str], name: str) -> str:
    if len(values) != 1:
        raise refuse_bad(f"{name} is given {len(values)} times; expected once", name)
    return values[0]

"""Messages of a conversation, with texts, images and sounds as parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trimodal.serving.limits import Limits
from trimodal.serving.openai.media import read_base64, read_data_uri
from trimodal.serving.refusals import refuse_bad, refuse_kind
from trimodal.serving.requests import Item
from trimodal.serving.strict_json import check_keys, name_kind, shorten, take_list, take_object, take_string

_ROLES = ("system", "developer", "user")


def read_messages(value: Any, limits: Limits) -> Item:
    """One item of all messages: the instructions of the system before the text of the user, at most one image and one sound.

    Raises:
        RefusedError: 400 for other roles, more than one turn, unknown parts, two images; 413 for too many messages; 415 for other media.
    """
    texts: list[str] = []
    files: dict[str, bytes] = {}
    turns = 0
    for place, sent in enumerate(take_list(value, "messages", 64)):
        field = f"messages[{place}]"
        message = take_object(sent, field)
        check_keys(message, ("role", "content", "name"), field)
        if message.get("role") not in _ROLES:
            raise refuse_bad(f"{field}: the role must be {', '.join(_ROLES)}: answers of before are not taken up again", f"{field}.role")
        turns += message["role"] == "user"
        if isinstance(message.get("content"), str):
            texts.append(take_string(message["content"], f"{field}.content", limits.text_characters))
        else:
            _read_parts(message.get("content"), f"{field}.content", limits, texts, files)
    if turns != 1:
        raise refuse_bad(f"{turns} messages of the user; expected one", "messages")
    return Item(text="\n".join(texts) or None, **files)


def _read_parts(value: Any, field: str, limits: Limits, texts: list[str], files: dict[str, bytes]) -> None:
    for place, sent in enumerate(take_list(value, field, 64)):
        here = f"{field}[{place}]"
        part = take_object(sent, here)
        kind = part.get("type")
        if kind == "text":
            texts.append(take_string(part.get("text"), f"{here}.text", limits.text_characters))
            continue
        if kind not in _READERS:
            told = repr(shorten(kind)) if isinstance(kind, str) else name_kind(kind)
            raise refuse_bad(f"{here} is of the type {told}; known are text, {', '.join(_READERS)}", f"{here}.type")
        modality, read = _READERS[kind]
        if modality in files:
            raise refuse_bad(f"{here} is a second {modality}; one is taken", here)
        files[modality] = read(part.get(kind), f"{here}.{kind}")


def _read_image_url(value: Any, field: str) -> bytes:
    return read_data_uri(value.get("url") if isinstance(value, dict) else value, "image", field)


def _read_audio_url(value: Any, field: str) -> bytes:
    return read_data_uri(value.get("url") if isinstance(value, dict) else value, "audio", field)


def _read_input_audio(value: Any, field: str) -> bytes:
    sound = take_object(value, field)
    check_keys(sound, ("data", "format"), field)
    if sound.get("format") not in ("wav", "flac"):
        raise refuse_kind(f"{field}.format must be wav or flac", f"{field}.format")
    data = sound.get("data")
    if not isinstance(data, str):
        raise refuse_bad(f"{field}.data is {name_kind(data)}; expected base64", f"{field}.data")
    return read_base64(data, f"{field}.data")


_READERS: dict[str, tuple[str, Callable[[Any, str], bytes]]] = {
    "image_url": ("image", _read_image_url),
    "audio_url": ("audio", _read_audio_url),
    "input_audio": ("audio", _read_input_audio),
}

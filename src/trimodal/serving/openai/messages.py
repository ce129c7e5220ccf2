"""Messages of a conversation, with texts, images and sounds as parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trimodal.serving.limits import Limits
from trimodal.serving.openai.media import read_base64, read_uri
from trimodal.serving.refusals import refuse_bad, refuse_kind
from trimodal.serving.requests import Item, RemoteFile
from trimodal.serving.strict_json import check_keys, name_kind, shorten, take_list, take_object, take_string

_ROLES = ("system", "developer", "user", "assistant")


@dataclass
class Conversation:
    """What was said: `messages` as chat templates take them, files left out of them and kept by modality."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes | RemoteFile] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    def make_item(self, text: str | None = None) -> Item:
        """One item of all files and `text`; where that is not given, all texts, one below the other."""
        return Item(text=text if text is not None else "\n".join(self.texts) or None, **self.files)  # type: ignore[arg-type]


def read_messages(value: Any, limits: Limits) -> Conversation:
    """The messages in `value`, at most one image and one sound in all.

    Raises:
        RefusedError: 400 for unknown roles and parts, two images, or a last message that is not the user's; 413 for too many
            messages; 415 for other media.
    """
    found = Conversation()
    for place, sent in enumerate(take_list(value, "messages", 256)):
        here = f"messages[{place}]"
        message = take_object(sent, here)
        check_keys(message, ("role", "content", "name", "refusal"), here)
        role = message.get("role")
        if role not in _ROLES:
            raise refuse_bad(f"{here}: the role must be {', '.join(_ROLES)}", f"{here}.role")
        if isinstance(message.get("content"), str):
            content: Any = take_string(message["content"], f"{here}.content", limits.text_characters)
            found.texts.append(content)
        else:
            content = _read_parts(message.get("content"), f"{here}.content", limits, found)
        found.messages.append({"role": "system" if role == "developer" else role, "content": content})
    if found.messages[-1]["role"] != "user":
        raise refuse_bad("the last message must be the user's", "messages")
    return found


def _read_parts(value: Any, field: str, limits: Limits, found: Conversation) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for place, sent in enumerate(take_list(value, field, 64)):
        here = f"{field}[{place}]"
        part = take_object(sent, here)
        kind = part.get("type")
        if kind == "text":
            found.texts.append(take_string(part.get("text"), f"{here}.text", limits.text_characters))
            parts.append({"type": "text", "text": found.texts[-1]})
            continue
        if not isinstance(kind, str) or kind not in _READERS:
            told = repr(shorten(kind)) if isinstance(kind, str) else name_kind(kind)
            raise refuse_bad(f"{here} is of the type {told}; known are text, {', '.join(_READERS)}", f"{here}.type")
        modality, read = _READERS[kind]
        if modality in found.files:
            raise refuse_bad(f"{here} is a second {modality}; one is taken", here)
        found.files[modality] = read(part.get(kind), f"{here}.{kind}", limits)
        parts.append({"type": modality})
    return parts


def _read_image_url(value: Any, field: str, limits: Limits) -> bytes | RemoteFile:
    return read_uri(value.get("url") if isinstance(value, dict) else value, "image", field, limits)


def _read_audio_url(value: Any, field: str, limits: Limits) -> bytes | RemoteFile:
    return read_uri(value.get("url") if isinstance(value, dict) else value, "audio", field, limits)


def _read_input_audio(value: Any, field: str, limits: Limits) -> bytes:
    sound = take_object(value, field)
    check_keys(sound, ("data", "format"), field)
    if sound.get("format") not in ("wav", "flac"):
        raise refuse_kind(f"{field}.format must be wav or flac", f"{field}.format")
    data = sound.get("data")
    if not isinstance(data, str):
        raise refuse_bad(f"{field}.data is {name_kind(data)}; expected base64", f"{field}.data")
    return read_base64(data, f"{field}.data")


_READERS: dict[str, tuple[str, Callable[[Any, str, Limits], bytes | RemoteFile]]] = {
    "image_url": ("image", _read_image_url),
    "audio_url": ("audio", _read_audio_url),
    "input_audio": ("audio", _read_input_audio),
}

"""From what a client gave to a sample that a processor takes."""

from __future__ import annotations

import asyncio

from PIL import Image

from trimodal.models.model import LoadedSample
from trimodal.serving.limits import Limits
from trimodal.serving.media.decoders import Decoders
from trimodal.serving.media.decoding import Decoded
from trimodal.serving.media.fetching import Fetcher
from trimodal.serving.refusals import refuse_bad, refuse_large
from trimodal.serving.requests import Item, RemoteFile


async def load_item(item: Item, decoders: Decoders, fetcher: Fetcher, limits: Limits) -> LoadedSample:
    """The item with its files fetched and decoded.

    Raises:
        RefusedError: it holds nothing, a file cannot be decoded, or the text is none.
    """
    if not item.modalities:
        raise refuse_bad("the item holds no image, no audio and no text", "input")
    check_text(item.text, limits)
    files = (("image", item.image), ("audio", item.audio))
    image, audio = await asyncio.gather(*(_decode(decoders, fetcher, kind, data) for kind, data in files))
    return LoadedSample(
        image=None if image is None else Image.fromarray(image.array), audio=None if audio is None else audio.array,  # type: ignore[arg-type]
        sampling_rate=0 if audio is None else audio.rate, text=item.text,
    )  # fmt: skip


async def _decode(decoders: Decoders, fetcher: Fetcher, kind: str, data: bytes | RemoteFile | None) -> Decoded | None:
    if data is None:
        return None
    return await decoders.decode(kind, data if isinstance(data, bytes) else await fetcher.fetch(data))


def check_text(text: str | None, limits: Limits) -> None:
    """Refuse a text that is empty, too long, or no text.

    Raises:
        RefusedError: it is one of these.
    """
    if text is None:
        return
    if not text.strip():
        raise refuse_bad("the text is empty; expected some words", "text")
    if len(text) > limits.text_characters:
        raise refuse_large(f"the text has {len(text):,} characters; at most {limits.text_characters:,} are taken", "text")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise refuse_bad("the text holds characters that are none (NUL, or half of a pair)", "text")

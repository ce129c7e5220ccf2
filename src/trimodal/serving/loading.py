"""From what a client gave to a sample that a processor takes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from PIL import Image

from trimodal.models.model import LoadedSample
from trimodal.serving.limits import Limits
from trimodal.serving.media.decoders import Decoders
from trimodal.serving.media.decoding import Decoded
from trimodal.serving.media.fetching import Fetcher
from trimodal.serving.refusals import refuse_bad, refuse_large
from trimodal.serving.requests import Item, RemoteFile


class PixelBudget:
    """How many pixels the images of one request may still have."""

    def __init__(self, limits: Limits) -> None:
        self.most = self.left = limits.request_pixels

    def take(self, image: Image.Image | None) -> None:
        """Count a decoded image.

        Raises:
            RefusedError: 413, all together have too many.
        """
        if image is None:
            return
        self.left -= image.width * image.height
        if self.left < 0:
            raise refuse_large(f"the images of the request have more than {self.most:,} pixels together; send fewer of them", "image")


def check_item(item: Item, limits: Limits) -> None:
    """Look at what can be seen before a file is fetched or decoded.

    Raises:
        RefusedError: the item holds nothing, or the text is none.
    """
    if not item.modalities:
        raise refuse_bad("the item holds no image, no audio and no text", "input")
    check_text(item.text, limits)


async def fetch_files(item: Item, fetcher: Fetcher) -> Item:
    """The item with files in place of their addresses.

    Raises:
        RefusedError: a file cannot be had.
    """
    image, audio = await asyncio.gather(_fetch(fetcher, item.image), _fetch(fetcher, item.audio))
    return replace(item, image=image, audio=audio)


async def _fetch(fetcher: Fetcher, file: bytes | RemoteFile | None) -> bytes | None:
    return await fetcher.fetch(file) if isinstance(file, RemoteFile) else file


async def load_item(item: Item, decoders: Decoders) -> LoadedSample:
    """The item, whose files are there, with its files decoded.

    Raises:
        RefusedError: a file cannot be decoded.
    """
    image, audio = await asyncio.gather(_decode(decoders, "image", item.image), _decode(decoders, "audio", item.audio))
    return LoadedSample(
        image=None if image is None else Image.fromarray(image.array), audio=None if audio is None else audio.array,  # type: ignore[arg-type]
        sampling_rate=0 if audio is None else audio.rate, text=item.text,
    )  # fmt: skip


async def _decode(decoders: Decoders, kind: str, data: bytes | RemoteFile | None) -> Decoded | None:
    assert not isinstance(data, RemoteFile), "fetched before"
    return None if data is None else await decoders.decode(kind, data)


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

"""Files of images and sounds, good and bad, made byte by byte where no library writes such a thing."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def make_png(seed: int = 0, size: tuple[int, int] = (64, 64)) -> bytes:
    """A PNG (width, height) of noise."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return save(Image.fromarray(pixels), "PNG")


def save(image: Image.Image, form: str, **options: Any) -> bytes:
    """The image as a file."""
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def make_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def make_png_head(width: int, height: int, content: bytes = b"") -> bytes:
    """A PNG that says to be so large, whatever is in it."""
    head = make_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + make_chunk(b"IDAT", content or zlib.compress(b"\0")) + make_chunk(b"IEND", b"")


def add_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk behind its head."""
    return png[:33] + make_chunk(name, content) + png[33:]


def make_wave(seconds: float = 0.5, rate: int = 16_000, channels: int = 1) -> Any:
    """A tone, float64 (frames, channels)."""
    tone = 0.3 * np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * 440 / rate)
    return np.repeat(tone[:, None], channels, axis=1)


def make_wav(seconds: float = 0.5, rate: int = 16_000, channels: int = 1, form: str = "WAV", subtype: str | None = "PCM_16") -> bytes:
    """A tone as a file."""
    return write_sound(make_wave(seconds, rate, channels), rate, form, subtype)


def write_sound(wave: Any, rate: int, form: str = "WAV", subtype: str | None = "PCM_16") -> bytes:
    """Samples (frames, channels) as a file."""
    import soundfile  # type: ignore[import-untyped, unused-ignore]

    sink = io.BytesIO()
    soundfile.write(sink, wave, rate, format=form, subtype=subtype)
    return sink.getvalue()


def make_riff(
    data: bytes, *, channels: int = 1, rate: int = 16_000, bits: int = 16, code: int = 1, claimed: int | None = None,
    riff: int | None = None,
) -> bytes:  # fmt: skip
    """A WAV whose head says what it is told; `claimed` and `riff` are the lengths in place of the true ones."""
    block = channels * bits // 8
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, code, channels & 0xFFFF, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    body = head + b"data" + struct.pack("<I", len(data) if claimed is None else claimed) + data
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def as_uri(data: bytes, kind: str) -> str:
    """A `data:` URI of the media type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def as_base64(data: bytes) -> str:
    """In base64."""
    return base64.b64encode(data).decode()

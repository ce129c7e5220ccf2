"""Files as clients send them."""

from __future__ import annotations

import io

import numpy as np
import soundfile
from PIL import Image


def make_png(size: tuple[int, int] = (40, 30), seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def make_wav(seconds: float = 0.5, rate: int = 16_000, form: str = "WAV", channels: int = 1) -> bytes:
    wave = 0.5 * np.sin(np.arange(int(seconds * rate)) / 30)
    sink = io.BytesIO()
    soundfile.write(sink, np.stack([wave] * channels, axis=1), rate, format=form)
    return sink.getvalue()

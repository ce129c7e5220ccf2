"""Bytes of an image or a sound into pixels or a waveform, with every size looked at before anything is decoded. Needs no torch.

What a decoder says is never told: it may hold an address in memory (CVE-2026-22778), and a client can do nothing with it.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trimodal.errors import DataError
from trimodal.media.images import to_upright_rgb
from trimodal.media.sounds import decode_audio, describe_rates, is_cut_short, parse_rate
from trimodal.serving.refusals import RefusedError, refuse_bad, refuse_kind

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
AUDIO_FORMATS = ("WAV", "WAVEX", "FLAC")
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, TypeError, KeyError, IndexError, OverflowError, MemoryError,
           Image.DecompressionBombError)  # fmt: skip
_MAGIC = {b"RIFF": "a sound (RIFF)", b"fLaC": "a sound (FLAC)", b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image"}
_PNG, _PNG_END, _PNG_HEAD = b"\x89PNG", b"IEND", 8
_PNG_PACKED, _PNG_UNREAD, _MOST_PACKED = (b"zTXt", b"iTXt"), (b"zTXt", b"iTXt", b"tEXt", b"iCCP"), 64 * 1024
_IMAGES = (_PNG, b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_SOUNDS = (b"RIFF", b"fLaC")
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x93NUMPY")


@dataclass(frozen=True)
class MediaLimits:
    """How large a file's content may be: `image_pixels` of an image, `audio_channels` and seconds of a sound; see `limits.py`."""

    image_pixels: int
    audio_seconds: float
    audio_channels: int


@dataclass(frozen=True)
class Decoded:
    """uint8 (height, width, 3), or float32 (frames,) and its rate in Hz."""

    array: NDArray[np.generic]
    rate: int = 0


def decode_media(kind: str, data: bytes, limits: MediaLimits) -> Decoded:
    """The content of a file of the `kind` `image` or `audio`.

    Raises:
        RefusedError: 400 broken, too large, or nothing in it; 415 another kind of file.
    """
    if not data:
        raise refuse_bad(f"the {kind} has 0 bytes; expected a whole file", kind)
    if data.startswith(_PICKLES):
        raise refuse_kind(f"the {kind} is an archive or stored arrays, which are never opened; expected {describe_formats(kind)}", kind)
    return _decode_image(data, limits) if kind == "image" else _decode_sound(data, limits)


def describe_formats(kind: str) -> str:
    """The files that are taken, in words."""
    return f"a whole file of {', '.join(IMAGE_FORMATS)}" if kind == "image" else "a whole file of WAV or FLAC"


def _decode_image(data: bytes, limits: MediaLimits) -> Decoded:
    data = _strip_png(data) if data.startswith(_PNG) else data
    try:
        opened = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as bomb:
        raise _refuse_pixels(limits, "more") from bomb
    except _BROKEN as failed:
        if data.startswith(_IMAGES):
            raise _refuse_damaged("image") from failed
        raise refuse_kind(f"the image is {_name_content(data)}; expected {describe_formats('image')}", "image") from failed
    if data.startswith(_PNG) and _PNG_END not in data:  # of which Pillow shows what there is
        raise _refuse_damaged("image")
    width, height = opened.size
    if not width or not height:
        raise refuse_bad("the image has no pixels", "image")
    if width * height > limits.image_pixels:
        raise _refuse_pixels(limits, f"{width} × {height}")
    try:
        with opened:
            opened.load()
            pixels = np.asarray(to_upright_rgb(opened))
    except _BROKEN as failed:
        raise _refuse_damaged("image") from failed
    return Decoded(pixels)


def _strip_png(data: bytes) -> bytes:
    """A PNG without its texts and its colour profile, which nobody reads here, and of which a few bytes may unfold to gigabytes."""
    kept, place = [data[:_PNG_HEAD]], _PNG_HEAD
    while place + 12 <= len(data):
        length, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if name in _PNG_PACKED and length > _MOST_PACKED:
            raise refuse_bad(f"the image holds {length:,} bytes of packed text; at most {_MOST_PACKED:,} are taken", "image")
        if name not in _PNG_UNREAD:
            kept.append(data[place : place + 12 + length])
        place += 12 + length
    return b"".join([*kept, data[place:]])


def _refuse_damaged(kind: str) -> RefusedError:
    return refuse_bad(f"the {kind} cannot be decoded: it is cut short or damaged", "image" if kind == "image" else "audio")


def _refuse_pixels(limits: MediaLimits, found: str) -> RefusedError:
    return refuse_bad(f"the image has {found} pixels; at most {limits.image_pixels:,} are taken, make it smaller", "image")


def _decode_sound(data: bytes, limits: MediaLimits) -> Decoded:
    import soundfile  # type: ignore[import-untyped, unused-ignore]

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as opened:
            form, frames, rate, channels = opened.format, opened.frames, opened.samplerate, opened.channels
    except Exception as failed:  # libsndfile has errors of its own
        if data.startswith(_SOUNDS) and (data[:4] != b"RIFF" or data[8:12] == b"WAVE"):
            raise refuse_bad("the sound cannot be decoded: it is cut short, damaged, or of a coding that is not taken", "audio") from failed
        raise refuse_kind(f"the sound is {_name_content(data)}; expected {describe_formats('audio')}", "audio") from failed
    if form not in AUDIO_FORMATS:
        raise refuse_kind(f"the sound is of the format {form}; expected {describe_formats('audio')}", "audio")
    if parse_rate(rate) is None:
        raise refuse_bad(f"the sound is at {rate} Hz; expected {describe_rates()}", "audio")
    if not 1 <= channels <= limits.audio_channels:
        raise refuse_bad(f"the sound has {channels} channels; at most {limits.audio_channels} are taken", "audio")
    if frames <= 0:
        raise refuse_bad("the sound has no samples", "audio")
    if frames / rate > limits.audio_seconds:
        raise refuse_bad(f"the sound is {frames / rate:,.0f} s long; at most {limits.audio_seconds:,.0f} s are taken, cut it", "audio")
    _check_not_cut(data)
    try:
        wave, rate = decode_audio(io.BytesIO(data))
    except DataError as failed:
        raise refuse_bad(f"the sound {str(failed).removeprefix('in memory ')}", "audio") from failed
    except _BROKEN as failed:
        raise _refuse_damaged("sound") from failed
    return Decoded(wave, rate)


def _check_not_cut(data: bytes) -> None:
    """Refuse a RIFF file that is shorter than its headers say."""
    if is_cut_short(io.BytesIO(data), len(data)):
        raise refuse_bad("the sound is cut short: its header promises more bytes than there are", "audio")


def _name_content(data: bytes) -> str:
    """What the bytes are, as far as their beginning tells."""
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "of an unknown format")

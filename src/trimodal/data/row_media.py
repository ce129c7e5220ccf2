"""Images, sounds and signals that rows hold: as PIL images, arrays, tensors, pairs of waveform and rate, or the bytes of their files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trimodal.data.fields import shorten_value, to_plain_number
from trimodal.data.masks import digest_mask, to_mask
from trimodal.data.signals import convert_signal, digest_signal
from trimodal.errors import DataError
from trimodal.media.images import decode_image, to_upright_rgb
from trimodal.media.sounds import Waveform, check_waveform, decode_audio, describe_rates, parse_rate

_CHANNELS = (1, 3, 4)
_INT16 = 32768.0


def _to_image(value: Any) -> Image.Image:
    if isinstance(value, Image.Image):
        return _load_image(value)
    if isinstance(value, Mapping | bytes):
        return decode_image(_find_bytes(value))
    pixels = _to_array(value) if hasattr(value, "__array__") else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise DataError(f"is {_describe_value(value, pixels)}; expected a path, a PIL image or uint8 (height, width, channels)")
    if pixels.ndim == 3 and pixels.shape[0] in _CHANNELS and pixels.shape[2] not in _CHANNELS:  # as torch has them
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS:
        raise DataError(f"is {_describe_value(value, pixels)}; expected 1, 3 or 4 channels, first or last")
    pixels = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    _check_size((pixels.shape[1], pixels.shape[0]))
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def _load_image(image: Image.Image) -> Image.Image:
    _check_size(image.size)
    try:
        return to_upright_rgb(image)
    except (OSError, SyntaxError) as error:  # it was opened, but not read yet
        raise DataError(f"cannot be decoded ({error}); expected a whole image") from error


def _check_size(size: tuple[int, int]) -> None:
    """Refuse an image without pixels, as Pillow does of a file."""
    if 0 in size:
        raise DataError(f"has a size of {size[0]} x {size[1]} pixels; expected at least one: take the row out, or make its image anew")


def _to_waveform(value: Any) -> Waveform:
    if isinstance(value, bytes) or (isinstance(value, Mapping) and "array" not in value):
        return decode_audio(_find_bytes(value))
    wave, rate = _split_wave(value)
    audio, checked = _to_array(wave), parse_rate(rate)
    if audio.dtype.newbyteorder("=") == np.int16:
        audio = audio.astype(np.float32) / _INT16
    if audio.ndim not in (1, 2) or audio.dtype.kind != "f" or checked is None:
        found = f"is {_describe_value(wave, audio)} at {shorten_value(rate)} Hz"
        raise DataError(f"{found}; expected float or int16 (frames,) and its rate: {describe_rates()}")
    mono = audio.reshape(-1, 1) if audio.ndim == 1 else audio if audio.shape[0] >= audio.shape[1] else audio.T
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
        return check_waveform("in memory", np.asarray(mono, dtype=np.float32)), checked


def _to_array(value: Any) -> NDArray[Any]:
    """`value` as an array; of a tensor without its gradient, and of floats that NumPy has no type for, float32."""
    try:
        if isinstance(value, torch.Tensor):
            tensor = value.detach().cpu()
            return np.asarray(tensor.float() if tensor.is_floating_point() else tensor)
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = shorten_value(str(error))
        raise DataError(f"is {_describe_value(value)} that no array can be made of ({reason}); expected an array of numbers") from error


def _split_wave(value: Any) -> tuple[Any, Any]:
    """Waveform and rate, as a pair, as `datasets` has them, or in its decoder, which gives all frames when asked."""
    if isinstance(value, tuple | list) and len(value) == 2:
        return value[0], to_plain_number(value[1])
    if isinstance(value, Mapping):
        return value["array"], to_plain_number(value.get("sampling_rate"))
    if hasattr(value, "get_all_samples"):
        found = value.get_all_samples()
        return found.data, to_plain_number(found.sample_rate)
    raise DataError(
        f"is {_describe_value(value)} without a rate; expected a path, (waveform, rate) or "
        '{"array": waveform, "sampling_rate": rate}'
    )


def _find_bytes(value: Mapping[str, Any] | bytes) -> Path | io.BytesIO:
    """The content of a file that a row holds as bytes, or the file that it names."""
    if isinstance(value, bytes):
        return io.BytesIO(value)
    if isinstance(value.get("bytes"), bytes):
        return io.BytesIO(value["bytes"])
    if isinstance(value.get("path"), str | Path) and Path(value["path"]).is_file():
        return Path(value["path"])
    raise DataError(f"is a mapping with the keys {shorten_value(list(value))}; expected bytes, or the path of a file")


def _describe_value(value: Any, array: Any = None) -> str:
    shape = "" if array is None else f" of {array.dtype} {tuple(array.shape)}"
    return f"a {type(value).__name__}{shape}"


def _digest_image(image: Image.Image) -> str:
    return hashlib.sha256(f"RGB {image.width} {image.height} ".encode() + image.tobytes()).hexdigest()


def _digest_waveform(wave: Waveform) -> str:
    return hashlib.sha256(f"{wave[1]} Hz ".encode() + wave[0].tobytes()).hexdigest()


@dataclass(frozen=True)
class MediaKind:
    """How a row's value becomes an image, a sound or a signal, and the sha256 of that."""

    convert: Callable[[Any], Any]
    digest: Callable[[Any], str]


_SIGNAL_KIND = MediaKind(convert_signal, digest_signal)
_MEDIA_KINDS = {
    "image": MediaKind(_to_image, _digest_image),
    "audio": MediaKind(_to_waveform, _digest_waveform),
    "mask": MediaKind(to_mask, digest_mask),
}


def find_media_kind(field: str) -> MediaKind:
    """The kind of what `image`, `audio`, `mask` or a signal's field holds."""
    return _MEDIA_KINDS.get(field, _SIGNAL_KIND)

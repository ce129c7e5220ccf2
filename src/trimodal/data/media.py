"""Images, sounds and signals, read when they are asked for: from files, or from a source that has them in its own keeping."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from trimodal.core import MODALITIES, Media, Sample, is_signal
from trimodal.data.masks import decode_mask
from trimodal.data.signals import decode_signal
from trimodal.errors import DataError
from trimodal.models.model import LoadedSample

Waveform = tuple[NDArray[np.float32], int]
"""Mono float32 (frames,) in [-1, 1], and its rate in Hz."""
CHECKED_MEDIA = 1_000
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""In Hz; what lies outside is a mistake: a flag, a count of frames, a rate in kHz."""

_LOUDEST = 16.0
"""Float sound may overshoot 1, as resampling, gain and lossy codecs make it; 24 dB above it is a wrong scale."""

_IMAGE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


def load_sample(sample: Sample, modalities: Collection[str] = MODALITIES) -> LoadedSample:
    """Read of `sample` what is of the `modalities`: its image, upright and in RGB, its sound, mono float32 (frames,) in
    [-1, 1], its text, its signals, float32 (steps, channels) or (features,).

    Raises:
        DataError: one cannot be decoded; it says on which line.
    """
    image = sample.image if "image" in modalities else None
    sound = sample.audio if "audio" in modalities else None
    audio, rate = (None, 0) if sound is None else _load_part(sample, "audio", sound)
    return LoadedSample(
        image=None if image is None else _load_part(sample, "image", image),
        audio=audio,
        sampling_rate=rate,
        text=sample.text if "text" in modalities else None,
        target=sample.target,
        signals={key: _load_part(sample, key, media) for key, media in sample.signals.items() if key in modalities},
        where=sample.where,
    )


def check_media(samples: Sequence[Sample], most: int = CHECKED_MEDIA) -> None:
    """Decode the images, sounds, masks and signals of `samples` once, so that what is broken is told before any work begins.

    At most the first `most` different ones are looked at, so that large data starts as fast as small; give first what is
    used first. A broken one behind them is told when it is used.

    Raises:
        DataError: one cannot be decoded; it says on which line.
    """
    checked: set[Path | Media] = set()
    for sample in samples:
        held = (("image", sample.image), ("audio", sample.audio), ("mask", sample.mask), *sample.signals.items())
        for key, media in held:
            if media is None or media in checked:
                continue
            if len(checked) >= most:
                return
            _load_part(sample, key, media)
            checked.add(media)


def _load_part(sample: Sample, key: str, media: Path | Media) -> Any:
    try:
        if isinstance(media, Media):
            return media.load()
        return decode_signal(media) if is_signal(key) else _DECODERS[key](media)
    except DataError as error:
        raise DataError(f"{sample.where}: {key} {error}") from error


# Images


def decode_image(file: Path | BinaryIO) -> Image.Image:
    """The image in `file`, upright and in RGB.

    Raises:
        DataError: the file is empty, broken or no image.
    """
    try:
        with Image.open(file) as opened:
            opened.load()
            return to_upright_rgb(opened)
    except _IMAGE_ERRORS as error:
        raise _make_image_error(file, error) from error


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """The image turned as its Exif data say, in RGB; of 16 bits the upper 8."""
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255 instead of scaling them
        return Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8)).convert("RGB")
    return turned.convert("RGB")


def _make_image_error(file: Path | BinaryIO, error: BaseException) -> DataError:
    name = _name_file(file)
    if isinstance(file, Path) and file.exists() and file.stat().st_size == 0:
        return DataError(f"{name} is empty (0 bytes); expected a whole image file")
    reason = "not a known image format" if isinstance(error, UnidentifiedImageError) else str(error)
    return DataError(f"{name} cannot be decoded ({reason}); expected a whole image file such as PNG or JPEG")


def _name_file(file: Path | BinaryIO) -> str:
    return str(file) if isinstance(file, Path) else "in memory"


# Sounds


def decode_audio(file: Path | BinaryIO) -> Waveform:
    """The sound in `file`, its channels averaged.

    Raises:
        DataError: the file is cut short, broken, without sound, at a rate of no sound or no audio, or soundfile is not installed.
    """
    soundfile, name = _import_soundfile(), _name_file(file)
    try:
        with soundfile.SoundFile(file) as opened:
            expected, rate = opened.frames, opened.samplerate
            audio = opened.read(dtype="float32", always_2d=True)  # (frames, channels)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        reason = getattr(error, "error_string", str(error))
        raise DataError(f"{name} cannot be decoded ({reason}); expected a whole audio file such as WAV or FLAC") from error
    if audio.shape[0] < expected or (isinstance(file, Path) and _is_cut_short(file)):
        raise DataError(f"{name} is truncated: its header promises more audio than it holds; expected a whole file")
    if (checked := parse_rate(rate)) is None:
        raise DataError(f"{name} is at {rate} Hz; expected {describe_rates()}")
    return check_waveform(name, audio), checked


def parse_rate(rate: Any) -> int | None:
    """`rate` in Hz, a whole number however it is held; None where it is none, or out of range."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        return None
    return int(rate) if rate == int(rate) else None


def describe_rates() -> str:
    """What a rate must be, as errors say it."""
    return f"a rate that is a whole number from {LOWEST_RATE:,} to {HIGHEST_RATE:,} Hz"


def check_waveform(name: str, audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """`audio` (frames, channels) as mono (frames,).

    Raises:
        DataError: it has no samples, or holds values that are not finite or far outside [-1, 1].
    """
    if audio.size == 0:
        raise DataError(f"{name} holds 0 samples; expected some sound")
    if not np.isfinite(audio).all():
        raise DataError(f"{name} holds values that are not finite; expected samples in [-1, 1]")
    if (peak := float(np.abs(audio).max())) > _LOUDEST:
        raise DataError(
            f"{name} holds values as large as {peak:,.6g}; expected samples in [-1, 1]: "
            "divide it by its full scale, which is 32768 where it was made of 16 bits"
        )
    mono: NDArray[np.float32] = audio.mean(axis=1, dtype=np.float32)
    return mono


def _is_cut_short(path: Path) -> bool:
    """Whether a RIFF file is shorter than its header says, which libsndfile forgives in silence."""
    with path.open("rb") as file:
        header = file.read(8)
    if len(header) < 8 or header[:4] != b"RIFF":
        return False
    promised = int.from_bytes(header[4:8], "little")
    streamed = promised in (0, 0xFFFFFFFF)
    return not streamed and path.stat().st_size < promised + 8


def _import_soundfile() -> ModuleType:
    try:
        import soundfile  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise DataError(
            "reading audio needs the soundfile package; install it with: pip install 'trimodal[audio]'"
        ) from error
    return soundfile  # type: ignore[no-any-return, unused-ignore]


_DECODERS: Mapping[str, Callable[[Path], Any]] = {"image": decode_image, "audio": decode_audio, "mask": decode_mask}

"""Sounds: mono float32 with their rate."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import DataError
from trimodal.media.naming import name_file

Waveform = tuple[NDArray[np.float32], int]
"""Mono float32 (frames,) in [-1, 1], and its rate in Hz."""
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""In Hz; what lies outside is a mistake: a flag, a count of frames, a rate in kHz."""
_STREAMED = (0, 0xFFFFFFFF)
_MOST_CHUNKS = 1000
_LOUDEST = 16.0
"""Float sound may overshoot 1, as resampling, gain and lossy codecs make it; 24 dB above it is a wrong scale."""


def decode_audio(file: Path | BinaryIO) -> Waveform:
    """The sound in `file`, its channels averaged.

    Raises:
        DataError: the file is cut short, broken, without sound, at a rate of no sound or no audio, or soundfile is not installed.
    """
    soundfile, name = _import_soundfile(), name_file(file)
    try:
        with soundfile.SoundFile(file) as opened:
            expected, rate = opened.frames, opened.samplerate
            audio = opened.read(dtype="float32", always_2d=True)  # (frames, channels)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        reason = getattr(error, "error_string", str(error))
        raise DataError(f"{name} cannot be decoded ({reason}); expected a whole audio file such as WAV or FLAC") from error
    if audio.shape[0] < expected or (isinstance(file, Path) and _is_file_cut_short(file)):
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


def is_cut_short(file: BinaryIO, size: int) -> bool:
    """Whether a RIFF file of `size` bytes has fewer than its header, or that of its samples, says, which libsndfile forgives in silence.

    0 and 2^32 - 1 are what programs write that do not know yet how long a sound will become."""
    name, place = file.read(4), 4
    if name != b"RIFF":
        return False
    for _ in range(_MOST_CHUNKS):
        length = file.read(4)
        if len(length) < 4:
            return False
        begin, promised = place + 4, int.from_bytes(length, "little")
        if promised not in _STREAMED and begin + promised > size:
            return True
        if name == b"data":
            return False
        place = 12 if name == b"RIFF" else begin + promised + promised % 2
        file.seek(place)
        name, place = file.read(4), place + 4
    return False


def _is_file_cut_short(path: Path) -> bool:
    with path.open("rb") as file:
        return is_cut_short(file, path.stat().st_size)


def _import_soundfile() -> ModuleType:
    try:
        import soundfile  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise DataError(
            "reading audio needs the soundfile package; install it with: pip install 'trimodal[audio]'"
        ) from error
    return soundfile  # type: ignore[no-any-return, unused-ignore]

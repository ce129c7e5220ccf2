"""The speech: the packaged clips of spoken digits, made by ``scripts/make_speech_clips.py``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

RATE = 8000  # Hz


@dataclass(frozen=True)
class SpeechClip:
    """One spoken digit.

    `voice` is an espeak-ng accent and variant, `speed` in words per minute, `pitch` from 0 to 99, `samples`
    (n,) float32 in [-1, 1] at 8 kHz.
    """

    voice: str
    split: str
    digit: int
    speed: int
    pitch: int
    samples: npt.NDArray[np.float32]

    @property
    def name(self) -> str:
        """A file name without suffix: voice, digit, speed, pitch."""
        return f"{self.voice}_{self.digit}_{self.speed}_{self.pitch}"


@lru_cache(maxsize=1)
def _load_all_clips() -> tuple[SpeechClip, ...]:
    """Decode the packaged file once (about one second)."""
    import soundfile  # type: ignore[import-untyped, unused-ignore]

    folder = files("trimodal.demo.seehearread")
    index = json.loads((folder / "clips.json").read_text(encoding="utf-8"))
    with (folder / "clips.ogg").open("rb") as stream:
        samples, rate = soundfile.read(stream, dtype="float32")
    if rate != index["rate"] or rate != RATE:
        raise ValueError(f"clips.ogg is at {rate} Hz and its index says {index['rate']}; expected {RATE}.")
    clips = []
    for voice, split, digit, speed, pitch, offset, length in index["clips"]:
        clips.append(SpeechClip(voice, split, digit, speed, pitch, samples[offset : offset + length]))
    return tuple(clips)


def load_speech(split: str) -> tuple[SpeechClip, ...]:
    """The clips of one split's voices."""
    return tuple(clip for clip in _load_all_clips() if clip.split == split)

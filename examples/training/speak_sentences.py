"""Speaks a data set to learn transcription from: sentences of a small grammar (commands, numbers, names) in many voices of espeak-ng.

    python examples/training/speak_sentences.py speech 6000 600

writes 6,000 clips to train with and 600 to test with, in voices that training does not hear. A voice is an accent of espeak-ng, such as
`en-gb-scotland`, joined with one of its variants, such as `f3`, which sets formants, breath and range; speed and pitch are drawn anew for
every clip, and some noise. Variants that are one speaker in several settings (`robosoft1` … `8`) stay on one side.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

RATE = 16_000  # Hz
LONGEST = 2 * RATE  # samples, which is the window of the model that learns from it
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
NOT_SPEAKERS = {"announcer", "croak", "Demonic", "fast", "Mr serious", "Storm", "whisper", "whisperf"}
"""Variants that are sound effects, or that have a space in their names."""
NUMBERED_SPEAKERS = re.compile(r"[fm]\d")  # f1 … f5 and m1 … m8 are different speakers, not settings of one
TEST_EVERY = 4  # speakers
SPEEDS, PITCHES, NOISES = (150, 230), (25, 80), (25.0, 45.0)
"""Words per minute; espeak-ng's own scale to 99; dB below the loudest."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
NAMES = ("anna", "bob", "clara", "david", "emma", "frank", "grace", "henry", "julia", "martin", "olivia", "peter")
ROOMS = ("kitchen", "bedroom", "garden", "office", "garage", "bathroom")
DEVICES = ("light", "heater", "fan", "radio", "window", "alarm")
SENTENCES = (
    "turn on the ROOM DEVICE", "turn off the ROOM DEVICE", "set the DEVICE to NUMBER", "call NAME", "call NAME in the ROOM",
    "tell NAME the code is NUMBER", "remind NAME in NUMBER minutes", "wake me in NUMBER minutes", "is the DEVICE on",
    "dial DIGIT DIGIT DIGIT", "NAME and NAME are in the ROOM", "NAME has number NUMBER",
)  # fmt: skip
ANSWERS = ("NUMBER", "DIGIT DIGIT", "NAME", "in the ROOM", "the DEVICE", "NAME and NAME", "on", "off")
"""As short as what is said to a question; half of all. Words are found in sentences once they are known alone."""
_SLOT = re.compile(r"[A-Z]{2,}")


class NoSpeakerError(Exception):
    """There is nothing to speak with."""


@dataclass(frozen=True)
class Line:
    """What is said in a clip, and how: the sentence, espeak-ng's voice, words per minute, pitch, dB of noise below the loudest."""

    text: str
    voice: str
    speed: int
    pitch: int
    noise: float


def draw_sentence(chance: random.Random) -> str:
    """A sentence of the grammar."""
    pattern = chance.choice(chance.choice((SENTENCES, ANSWERS)))
    return _SLOT.sub(lambda slot: _draw_word(slot.group(), chance), pattern)


def _draw_word(slot: str, chance: random.Random) -> str:
    if slot == "NUMBER":
        tens = chance.choice(TENS)
        return chance.choice((chance.choice(TEENS), tens, f"{tens} {chance.choice(DIGITS[1:])}"))
    return chance.choice({"DIGIT": DIGITS, "NAME": NAMES, "ROOM": ROOMS, "DEVICE": DEVICES}[slot])


def list_voices() -> tuple[list[str], list[str]]:
    """The variants of espeak-ng to train with and those to test with.

    Raises:
        NoSpeakerError: espeak-ng is not installed, or has no variants.
    """
    if shutil.which("espeak-ng") is None:
        raise NoSpeakerError("there is no espeak-ng; install it: apt-get install espeak-ng, or brew install espeak-ng")
    listing = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, text=True, check=True).stdout
    found = {line.split("!v/", 1)[1].strip() for line in listing.splitlines() if "!v/" in line} - NOT_SPEAKERS - {"Mr"}
    speakers = sorted({_name_speaker(variant) for variant in found})
    if len(speakers) < TEST_EVERY:
        raise NoSpeakerError(f"espeak-ng has {len(speakers)} voice variants; install its data: apt-get install espeak-ng-data")
    unheard = set(speakers[TEST_EVERY - 1 :: TEST_EVERY])
    names = sorted(found)
    return [v for v in names if _name_speaker(v) not in unheard], [v for v in names if _name_speaker(v) in unheard]


def _name_speaker(variant: str) -> str:
    """`robosoft3` is robosoft, `f3` is f3."""
    return variant if NUMBERED_SPEAKERS.fullmatch(variant) else variant.rstrip("0123456789").lower()


def draw_line(variants: Sequence[str], chance: random.Random) -> Line:
    """Something to say and a voice to say it with."""
    voice = f"{chance.choice(ACCENTS)}+{chance.choice(variants)}"
    return Line(draw_sentence(chance), voice, chance.randint(*SPEEDS), chance.randint(*PITCHES), chance.uniform(*NOISES))


def speak(line: Line) -> NDArray[np.float32]:
    """The clip: float32 (samples,) at 16 kHz, silence at the ends cut off; its noise depends on what is said."""
    command = ["espeak-ng", "-v", line.voice, "-s", str(line.speed), "-p", str(line.pitch), "--stdout", line.text]
    sound, rate = soundfile.read(io.BytesIO(subprocess.run(command, capture_output=True, check=True).stdout), dtype="float32")
    wave = resample_poly(sound, RATE, rate)
    loud = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max(initial=0.0))
    if not len(loud):
        raise NoSpeakerError(f"espeak-ng says nothing with the voice {line.voice}")
    wave = wave[loud[0] : loud[-1] + 1] * (0.7 / np.abs(wave).max())
    hiss = np.random.default_rng(len(wave)).standard_normal(len(wave))
    return (wave + 0.7 * 10 ** (-line.noise / 20) * hiss).astype(np.float32)


def _write_clip(folder: Path, split: str, variants: Sequence[str], seed: int, number: int) -> dict[str, str]:
    """One clip that fits the window, and its line of the data file."""
    chance = random.Random(f"{seed} {split} {number}")
    while len(wave := speak(line := draw_line(variants, chance))) > LONGEST:
        pass
    name = f"{split}/{number:05}.wav"
    soundfile.write(folder / name, wave, RATE, subtype="PCM_16")
    return {"audio": name, "target": line.text, "split": split}


def write_speech(folder: Path, train: int, test: int, seed: int = 0, workers: int = 2) -> Path:
    """Write so many clips of either split and the data file `speech.jsonl`; the same seed gives the same clips, however many speak.

    Raises:
        NoSpeakerError: espeak-ng is missing or mute.
    """
    heard, unheard = list_voices()
    lines = []
    with ThreadPoolExecutor(workers) as pool:
        for split, count, variants in (("train", train, heard), ("test", test, unheard)):
            (folder / split).mkdir(parents=True, exist_ok=True)
            lines += pool.map(partial(_write_clip, folder, split, variants, seed), range(count))
    data = folder / "speech.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return data


def main() -> None:
    """Write the data set that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("train", type=int)
    parser.add_argument("test", type=int)
    given = parser.parse_args()
    try:
        print(f"written: {write_speech(given.folder, given.train, given.test)}")
    except NoSpeakerError as error:
        sys.exit(f"speak_sentences: {error}")


if __name__ == "__main__":
    main()

"""Make the packaged speech of the see-hear-read task: the ten English digits, spoken by many espeak-ng
voices.

A *voice* is an accent of espeak-ng (``en-us``, ``en-gb-scotland``, ...) joined with one of its variants
(``f3``, ``klatt2``, ``grandpa``, ...), which sets formants, breathiness and pitch range. Every voice says
every digit once, at a speed and a pitch drawn for that clip. Variants that are one speaker in several
settings (``robosoft1`` ... ``8``) form a *family*, and a family lies in one split only, so that nobody heard
in training is heard in the test.

The split is a fixed rule over the sorted families, made before any model was trained.

Run ``python scripts/make_speech_clips.py`` (needs espeak-ng 1.51); it writes ``clips.ogg`` (one Vorbis file,
mono, 8 kHz, the clips one after another with silence between) and ``clips.json`` (where each clip lies, and
whose it is).
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from scipy.signal import resample_poly

RATE = 8000  # Hz
GAP = 400  # samples of silence between clips, so that the codec does not smear one into the next
MARGIN = 160  # samples kept on each side of the trimmed speech
LONGEST = 7200  # samples; a clip must fit one second with room to move
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
)
ACCENTS_PER_VARIANT = 3
# Sound effects rather than speakers (announcer system, whispers, croaks), or names with a space.
EXCLUDED = {"announcer", "croak", "Demonic", "fast", "Mr serious", "Storm", "whisper", "whisperf"}
NUMBERED_SPEAKERS = re.compile(r"[fm]\d")  # f1 ... f5 and m1 ... m8 are different speakers, not settings of one
SPLIT_PATTERN = ("train", "train", "train", "test", "train", "validation", "train", "test")

Wave = npt.NDArray[np.float32]


def installed_variants() -> list[str]:
    """Names of espeak-ng's voice variants, sorted without regard to case."""
    listing = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, text=True, check=True).stdout
    names = {line.split("!v/", 1)[1].strip() for line in listing.splitlines() if "!v/" in line}
    return sorted(names - EXCLUDED - {"Mr"}, key=str.lower)


def family_of(variant: str) -> str:
    """The speaker behind a variant: ``robosoft3`` -> ``robosoft``, ``f3`` -> ``f3``."""
    return variant if NUMBERED_SPEAKERS.fullmatch(variant) else variant.rstrip("0123456789").lower()


def split_families(variants: list[str]) -> dict[str, str]:
    """Family -> split, by a repeating pattern over the sorted families."""
    families = sorted({family_of(variant) for variant in variants})
    return {family: SPLIT_PATTERN[place % len(SPLIT_PATTERN)] for place, family in enumerate(families)}


def speak(word: str, voice: str, speed: int, pitch: int) -> Wave:
    """One word as float32 samples at 8 kHz, silence trimmed, peak 0.9. ``speed`` is in words per minute."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word]
    sound = subprocess.run(command, capture_output=True, check=True).stdout
    samples, rate = soundfile.read(io.BytesIO(sound), dtype="float32")
    return trim(resample_poly(samples, RATE, rate).astype(np.float32))


def trim(samples: Wave) -> Wave:
    """Cut what is quieter than 1 % of the peak at both ends, keep a margin, and scale the peak to 0.9."""
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0.0:
        raise ValueError("espeak-ng returned silence")
    loud = np.flatnonzero(np.abs(samples) > 0.01 * peak)
    start, stop = max(0, int(loud[0]) - MARGIN), min(len(samples), int(loud[-1]) + MARGIN)
    return samples[start:stop][:LONGEST] * np.float32(0.9 / peak)


def make_clips(seed: int) -> tuple[Wave, dict[str, object]]:
    """All clips in one array, and the index that says where each lies."""
    chance = random.Random(seed)
    variants = installed_variants()
    splits = split_families(variants)
    pieces: list[Wave] = [np.zeros(GAP, np.float32)]
    rows: list[list[object]] = []
    offset = GAP
    for place, variant in enumerate(variants):
        for turn in range(ACCENTS_PER_VARIANT):
            voice = f"{ACCENTS[(place * ACCENTS_PER_VARIANT + turn) % len(ACCENTS)]}+{variant}"
            for digit, word in enumerate(WORDS):
                speed, pitch = chance.randrange(115, 205), chance.randrange(25, 80)
                wave = speak(word, voice, speed, pitch)
                rows.append([voice, splits[family_of(variant)], digit, speed, pitch, offset, len(wave)])
                pieces += [wave, np.zeros(GAP, np.float32)]
                offset += len(wave) + GAP
    columns = ["voice", "split", "digit", "speed", "pitch", "offset", "length"]
    return np.concatenate(pieces), {"rate": RATE, "columns": columns, "clips": rows}


def write_vorbis(path: Path, samples: Wave, compression: float) -> None:
    """Write in pieces: libsndfile's Vorbis encoder overflows its stack on one very long write."""
    with soundfile.SoundFile(path, "w", RATE, 1, format="OGG", subtype="VORBIS", compression_level=compression) as out:
        for start in range(0, len(samples), RATE):
            out.write(samples[start : start + RATE])


def main() -> None:
    """Write ``clips.ogg`` and ``clips.json`` into the package."""
    here = Path(__file__).resolve().parent.parent / "src/trimodal/data/seehearread"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=here)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compression", type=float, default=0.9, help="0 (largest, best) to 1 (smallest)")
    options = parser.parse_args()
    samples, index = make_clips(options.seed)
    write_vorbis(options.out / "clips.ogg", samples, options.compression)
    rows = index["clips"]
    assert isinstance(rows, list)
    lines = ",\n".join(json.dumps(row) for row in rows)
    header = f'{{"rate": {RATE}, "columns": {json.dumps(index["columns"])}, "clips": [\n'
    (options.out / "clips.json").write_text(f"{header}{lines}\n]}}\n")
    print(f"{len(rows)} clips, {len(samples) / RATE:.0f} s, {(options.out / 'clips.ogg').stat().st_size} bytes")


if __name__ == "__main__":
    main()

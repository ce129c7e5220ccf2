"""Writes the see-hear-read task as an ordinary data folder, such as any user could have made."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from trimodal.demo.seehearread.digits import load_handwriting
from trimodal.demo.seehearread.phrases import OPERATIONS, answer_class_of, list_texts
from trimodal.demo.seehearread.speech import RATE, SpeechClip, load_speech
from trimodal.writing import open_atomic_folder


@dataclass(frozen=True)
class QuestionItem:
    """One question: which `image` (its index in the digits data set, `writer` the writer's) and clip, the text, and the right
    answers: the digit `seen` and the number of the `operation`."""

    image: int
    writer: int
    seen: int
    clip: SpeechClip
    text: str
    operation: int

    @property
    def label(self) -> int:
        """The class of the right answer."""
        return answer_class_of(self.operation, self.seen, self.clip.digit)

    def to_line(self, split: str) -> dict[str, object]:
        """The item as one line of ``data.jsonl``."""
        return {
            "image": f"images/{self.image:04d}.png",
            "audio": f"audio/{self.clip.name}.wav",
            "text": self.text,
            "label": self.label,
            "split": split,
            "group": f"writer-{self.writer:02d}/{self.clip.voice}",
            "labels": {"image": self.seen, "audio": self.clip.digit, "text": self.operation},
        }


def draw_questions(split: str, count: int, seed: int) -> list[QuestionItem]:
    """`count` items of one split, balanced: every 500 hold each operation on each pair of digits once."""
    chance = random.Random(f"{seed}/{split}")
    handwriting, speech = load_handwriting(split), load_speech(split)
    seen = {digit: np.flatnonzero(handwriting.digits == digit).tolist() for digit in range(10)}
    heard = {digit: [clip for clip in speech if clip.digit == digit] for digit in range(10)}
    wordings = [list_texts(operation, split) for operation in range(len(OPERATIONS))]
    items = []
    for operation, first, second in _draw_balanced(count, chance):
        row = chance.choice(seen[first])
        items.append(
            QuestionItem(
                int(handwriting.indices[row]), int(handwriting.writers[row]), first,
                chance.choice(heard[second]), chance.choice(wordings[operation]), operation,
            )
        )  # fmt: skip
    return items


def _draw_balanced(count: int, chance: random.Random) -> Iterator[tuple[int, int, int]]:
    """(operation, seen digit, heard digit) `count` times, from one shuffled table of all after another."""
    table = [(operation, a, b) for operation in range(len(OPERATIONS)) for a in range(10) for b in range(10)]
    for number in range(count):
        if number % len(table) == 0:
            chance.shuffle(table)
        yield table[number % len(table)]


def write_dataset(
    folder: Path, *, train: int, test: int, seed: int, validation: int = 0, force: bool = False
) -> Path:
    """Write `train`, `validation` and `test` questions to `folder` and return it; what stands there only with `force`.

    The folder holds ``data.jsonl``, ``images/*.png`` (8 x 8, grey) and ``audio/*.wav`` (16-bit, 8 kHz, mono);
    lines share files. No writer, voice or wording of one split occurs in another. The same seed gives the
    same folder.
    """
    counts = {"train": train, "validation": validation, "test": test}
    negative = [name for name, count in counts.items() if count < 0]
    if negative or not sum(counts.values()):
        raise ValueError(f"Ask for at least one question and no negative number; got {counts}.")
    chosen = [(split, item) for split, count in counts.items() for item in draw_questions(split, count, seed)]
    folder = Path(folder)
    lines = [json.dumps(item.to_line(split)) for split, item in chosen]
    with open_atomic_folder(folder, force) as part:
        _write_images(part / "images", sorted({item.image for _, item in chosen}))
        _write_audio(part / "audio", {item.clip.name: item.clip for _, item in chosen})
        (part / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _write_images(folder: Path, indices: list[int]) -> None:
    """One PNG per image; the stroke is white on black, as in the data set."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = set(indices)
    for split in ("train", "validation", "test"):
        part = load_handwriting(split)
        for index, pixels in zip(part.indices.tolist(), part.images, strict=True):
            if index in wanted:
                Image.fromarray(pixels).save(folder / f"{index:04d}.png")


def _write_audio(folder: Path, clips: dict[str, SpeechClip]) -> None:
    """One 16-bit WAV per clip."""
    import soundfile  # type: ignore[import-untyped, unused-ignore]

    folder.mkdir(parents=True, exist_ok=True)
    for name, clip in sorted(clips.items()):
        soundfile.write(folder / f"{name}.wav", clip.samples, RATE, subtype="PCM_16")

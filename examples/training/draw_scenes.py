"""Draws scenes to train with: two to four coloured shapes on a noisy ground, with a caption, questions with their answers, and a mask.

    python examples/training/draw_scenes.py scenes 12000 1000

writes 12,000 scenes to learn from and 1,000 that no line to learn from shows (`split`), and three data files: `captions.jsonl` (image and
text, for `retrieve`), `questions.jsonl` (image, question and target, for `generate`), `masks.jsonl` (image and mask, for `segment`).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (215, 45, 40), "green": (45, 165, 60), "blue": (55, 80, 220), "yellow": (230, 210, 50), "white": (240, 240, 240),
    "purple": (150, 60, 170),
}  # fmt: skip
SIZES = {"small": 5, "large": 8}  # pixels from the middle to the edge
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
PITCH = 16  # pixels from one place to the next: whole patches of 8, so that what is learnt of shapes at one place holds at all nine
NUMBERS = ("zero", "one", "two", "three", "four")
MASK_CLASSES = ("ground", *SHAPES)


@dataclass(frozen=True)
class Thing:
    """One shape of a scene, in row and column 0 to 2 of its nine places."""

    shape: str
    colour: str
    size: str
    row: int
    column: int

    @property
    def place(self) -> str:
        """Such as `top left`."""
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"


Scene = tuple[Thing, ...]


def arrange_scene(chance: random.Random) -> Scene:
    """Two to four shapes at different places, of which no two are of one colour and shape."""
    kinds = chance.sample([(shape, colour) for shape in SHAPES for colour in COLOURS], chance.randint(2, 4))
    places = chance.sample([(row, column) for row in range(3) for column in range(3)], len(kinds))
    return tuple(Thing(*kind, chance.choice(list(SIZES)), *place) for kind, place in zip(kinds, places, strict=True))


# What is seen


def draw_scene(scene: Scene, seed: int) -> tuple[Image.Image, Image.Image]:
    """The image (64 × 64, RGB) and its mask: in every pixel the number of the shape in `MASK_CLASSES`."""
    noise = np.random.default_rng(seed)
    ground, slope = noise.integers(20, 90, 3), noise.integers(-20, 21, (2, 3))
    ramp = np.linspace(-1, 1, SIDE)
    pixels = ground + ramp[:, None, None] * slope[0] + ramp[None, :, None] * slope[1]
    image, mask = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), Image.new("L", (SIDE, SIDE), 0)
    for thing in scene:
        x, y = (SIDE // 2 + PITCH * (at - 1) + int(noise.integers(-2, 3)) for at in (thing.column, thing.row))
        shade = noise.integers(-15, 16, 3)
        _draw_shape(ImageDraw.Draw(image), thing, x, y, tuple(int(c) for c in np.clip(np.add(COLOURS[thing.colour], shade), 0, 255)))
        _draw_shape(ImageDraw.Draw(mask), thing, x, y, MASK_CLASSES.index(thing.shape))
    grain = noise.normal(0, 8, (SIDE, SIDE, 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8)), mask


def _draw_shape(pen: ImageDraw.ImageDraw, thing: Thing, x: int, y: int, fill: int | tuple[int, ...]) -> None:
    r = SIZES[thing.size]
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)
    else:
        arm = r // 3
        pen.rectangle((x - r, y - arm, x + r, y + arm), fill=fill)
        pen.rectangle((x - arm, y - r, x + arm, y + r), fill=fill)


# What is said


def write_caption(scene: Scene, chance: random.Random) -> str:
    """All shapes, in any order: `a small red circle at the top left, a large blue cross at the middle right`."""
    said = [f"a {thing.size} {thing.colour} {thing.shape} at the {thing.place}" for thing in scene]
    chance.shuffle(said)
    return ", ".join(said)


def describe_scene(scene: Scene) -> tuple[str, str]:
    """A question that is answered by all shapes, row by row. An answer of one word says little of what is in an image; who learns to say
    all of it learns to look."""
    ordered = sorted(scene, key=lambda thing: (thing.row, thing.column))
    return DESCRIBE, " , ".join(f"a {thing.size} {thing.colour} {thing.shape} at the {thing.place}" for thing in ordered)


def ask_colour(scene: Scene, chance: random.Random) -> tuple[str, str] | None:
    """Of a shape that is there once."""
    alone = [thing for thing in scene if sum(other.shape == thing.shape for other in scene) == 1]
    thing = chance.choice(alone) if alone else None
    return None if thing is None else (f"what colour is the {thing.shape} ?", thing.colour)


def ask_place(scene: Scene, chance: random.Random) -> tuple[str, str] | None:
    """Which shape is at a place."""
    thing = chance.choice(scene)
    return f"which shape is at the {thing.place} ?", thing.shape


def ask_beside(scene: Scene, chance: random.Random) -> tuple[str, str] | None:
    """The colour of the only shape on one side of another."""
    sides: dict[str, Callable[[Thing, Thing], bool]] = {
        "left of": lambda a, b: a.column < b.column, "right of": lambda a, b: a.column > b.column,
        "above": lambda a, b: a.row < b.row, "below": lambda a, b: a.row > b.row,
    }  # fmt: skip
    found = []
    for thing in scene:
        for side, lies in sides.items():
            there = [other for other in scene if lies(other, thing)]
            if len(there) == 1:
                found.append((f"what colour is the shape {side} the {thing.colour} {thing.shape} ?", there[0].colour))
    return chance.choice(found) if found else None


def ask_count(scene: Scene, chance: random.Random) -> tuple[str, str] | None:
    """How many shapes there are, or of one kind or colour."""
    which = chance.choice(("shape", "kind", "colour"))
    if which == "shape":
        return "how many shapes are there ?", NUMBERS[len(scene)]
    words = SHAPES if which == "kind" else tuple(COLOURS)
    word = chance.choice([getattr(t, "shape" if which == "kind" else "colour") for t in scene] + [chance.choice(words)])
    count = sum(word in (thing.shape, thing.colour) for thing in scene)
    return f"how many {f'{word} shapes' if which == 'colour' else f'{word} things'} are there ?", NUMBERS[count]


def ask_presence(scene: Scene, chance: random.Random) -> tuple[str, str] | None:
    """Whether a shape of some colour is there. What is not there has the colour of one and the shape of another where that can be."""
    kinds = {(thing.colour, thing.shape) for thing in scene}
    if chance.random() < 0.5:
        colour, shape = chance.choice(sorted(kinds))
        return f"is there a {colour} {shape} ?", "yes"
    others = sorted({(a, b) for a, _ in kinds for _, b in kinds} - kinds)
    colour, shape = chance.choice(others or [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in kinds])
    return f"is there a {colour} {shape} ?", "no"


DESCRIBE = "what is there ?"
QUESTIONS: dict[str, Callable[[Scene, random.Random], tuple[str, str] | None]] = {
    "colour": ask_colour, "place": ask_place, "beside": ask_beside, "count": ask_count, "presence": ask_presence,
}  # fmt: skip
_BEGINNINGS = {
    "what colour is the shape": "beside", "what colour": "colour", "which shape": "place", "how many": "count", "is there": "presence",
    DESCRIBE: "description",
}  # fmt: skip


def find_kind(question: str) -> str:
    """Which of `QUESTIONS` asks so, or `description`."""
    return next(kind for beginning, kind in _BEGINNINGS.items() if question.startswith(beginning))


# The files


def write_scenes(folder: Path, count: int, tested: int, seed: int = 0) -> Path:
    """Write `count` scenes to learn from and `tested` to test with, and the three data files. No scene of the test, without its noise and
    jitter, is one to learn from."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    chance, seen = random.Random(seed), set[frozenset[Thing]]()
    lines: dict[str, list[dict[str, str]]] = {"captions": [], "questions": [], "masks": []}
    for number in range(count + tested):
        scene = arrange_scene(chance)
        while frozenset(scene) in seen:
            scene = arrange_scene(chance)
        seen.add(frozenset(scene))
        image, mask = draw_scene(scene, seed * 1_000_003 + number)
        image.save(folder / "images" / f"{number}.png", compress_level=1)
        mask.save(folder / "masks" / f"{number}.png")
        shared = {"image": f"images/{number}.png", "group": str(number), "split": "test" if number >= count else "train"}
        lines["captions"].append({**shared, "text": write_caption(scene, chance)})
        lines["masks"].append({**shared, "mask": f"masks/{number}.png"})
        if number < count:
            asked = describe_scene(scene)
            lines["questions"].append({**shared, "text": asked[0], "target": asked[1]})
        lines["questions"] += [{**shared, "text": asked[0], "target": asked[1]} for asked in _ask_all(scene, chance)]
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def _ask_all(scene: Scene, chance: random.Random) -> Sequence[tuple[str, str]]:
    """A question of every kind that the scene has an answer to."""
    return [asked for ask in QUESTIONS.values() if (asked := ask(scene, chance)) is not None]


if __name__ == "__main__":
    print(f"written: {write_scenes(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))}")

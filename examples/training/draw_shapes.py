"""Draws a small data set to train with: coloured shapes, each with a caption and the name of its shape.

    python examples/training/draw_shapes.py shapes 600
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 32
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (230, 210, 40), "white": (240, 240, 240)}
SIZES = {"small": 5, "large": 11}
PLACES = {"left": 11, "right": 21}


def draw_shape(chance: random.Random) -> tuple[Image.Image, str, str]:
    """An image, its caption, and the shape's name."""
    shape, colour, size, place = (chance.choice(list(names)) for names in (SHAPES, COLOURS, SIZES, PLACES))
    ground = chance.randrange(0, 60)
    image = Image.new("RGB", (SIDE, SIDE), (ground, ground, ground))
    pen, r = ImageDraw.Draw(image), SIZES[size]
    x, y = PLACES[place] + chance.randint(-2, 2), SIDE // 2 + chance.randint(-3, 3)
    box, fill = (x - r, y - r, x + r, y + r), COLOURS[colour]
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)
    else:
        pen.line((x - r, y, x + r, y), fill=fill, width=3)
        pen.line((x, y - r, x, y + r), fill=fill, width=3)
    return image, f"a {size} {colour} {shape} on the {place}", shape


def write_shapes(folder: Path, count: int, seed: int = 0) -> Path:
    """Write `count` images and the data files `captions.jsonl` (with text) and `shapes.jsonl` (with the shape as label)."""
    folder.mkdir(parents=True, exist_ok=True)
    chance, captions, labels = random.Random(seed), [], []
    for number in range(count):
        image, caption, shape = draw_shape(chance)
        image.save(folder / f"{number}.png")
        captions.append({"image": f"{number}.png", "text": caption, "group": str(number)})
        labels.append({"image": f"{number}.png", "label": shape, "group": str(number)})
    for name, lines in (("captions.jsonl", captions), ("shapes.jsonl", labels)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


if __name__ == "__main__":
    print(f"written: {write_shapes(Path(sys.argv[1]), int(sys.argv[2]))}")

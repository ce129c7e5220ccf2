"""Makes a small data set of cases that need both an image and a time series: a dark picture and vital signs that fall are an alarm.

    python examples/training/draw_sensors.py sensors 800

writes pictures, series as .npy files (steps × channels), and `sensors.jsonl`, in which every fifth case has no picture or no series.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE, STEPS = 32, 16
MEANS, SCALES = (80.0, 37.0, 16.0), (10.0, 0.5, 3.0)
"""Pulse, temperature and breaths: what is usual, and by how much they rise or fall."""


def draw_picture(dark: bool, chance: np.random.Generator) -> Image.Image:
    """A grey picture full of noise, dark or bright."""
    light = (90 if dark else 165) + 40 * chance.standard_normal((SIDE, SIDE))
    return Image.fromarray(light.clip(0, 255).astype(np.uint8)).convert("RGB")


def draw_series(falls: bool, chance: np.random.Generator) -> NDArray[np.float32]:
    """float32 (steps, 3): signs that fall or rise; some begin late, so they have fewer steps."""
    steps = int(chance.integers(STEPS // 2, STEPS + 1))
    slope = (-1 if falls else 1) * np.linspace(-1, 1, steps)[:, None]
    noise = 0.5 * chance.standard_normal((steps, len(MEANS)))
    return (np.asarray(MEANS) + np.asarray(SCALES) * (slope + noise)).astype(np.float32)


def write_sensors(folder: Path, count: int, seed: int = 0) -> Path:
    """Write `count` cases and the data file `sensors.jsonl`; every fourth is for the test."""
    folder.mkdir(parents=True, exist_ok=True)
    chance, lines = np.random.default_rng(seed), list[dict[str, Any]]()
    for number in range(count):
        dark, falls = (bool(value) for value in chance.random(2) < 0.5)
        draw_picture(dark, chance).save(folder / f"{number}.png")
        np.save(folder / f"{number}.npy", draw_series(falls, chance))
        split = "test" if number % 4 == 0 else "train"
        line = {"image": f"{number}.png", "signal.vitals": f"{number}.npy", "label": "alarm" if dark and falls else "quiet", "split": split}
        if split == "train" and number % 5 == 1:
            line.pop(("image", "signal.vitals")[number % 2])
        lines.append(line)
    data = folder / "sensors.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return data


if __name__ == "__main__":
    print(f"written: {write_sensors(Path(sys.argv[1]), int(sys.argv[2]))}")

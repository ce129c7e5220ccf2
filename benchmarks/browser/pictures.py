"""Small drawings of coloured things, and the miniatures of ViT and CLIP, trained on them here in seconds.

A drawing is one of four things in one of three colours and two sizes on noisy grey, 32 x 32 pixels: `a small red house`. ViT names the
thing, CLIP finds the sentence. Test drawings come from other seeds.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image, ImageDraw

from trimodal.networks.tiny import write_miniature

SIDE, TEST, TRAINING, STEPS, BATCH, LEARNING_RATE = 32, 24, 3072, 1500, 64, 3e-3
THINGS = ("house", "tree", "fish", "boat")
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220)}
SIZES = {"small": 6, "large": 11}  # pixels from the middle to the edge
KINDS = tuple(itertools.product(SIZES, COLOURS, THINGS))
CAPTIONS = tuple(f"a {size} {colour} {thing}" for size, colour, thing in KINDS)


def draw_picture(kind: int, seed: int) -> Image.Image:
    """The thing that `CAPTIONS[kind]` says, near the middle."""
    size, colour, thing = KINDS[kind]
    random = np.random.default_rng(seed)
    pixels = random.integers(90, 140) + random.integers(-15, 16, (SIDE, SIDE, 3))
    image = Image.fromarray(pixels.astype(np.uint8))
    half = SIZES[size] + int(random.integers(-1, 2))
    x, y = (int(place) for place in random.integers(SIDE // 2 - 3, SIDE // 2 + 4, 2))
    ink = tuple(int(part) for part in np.clip(np.array(COLOURS[colour]) + random.integers(-30, 31, 3), 0, 255))
    _draw_thing(ImageDraw.Draw(image), thing, (x, y, half), ink)
    return image


def _draw_thing(pen: Any, thing: str, where: tuple[int, int, int], ink: tuple[int, ...]) -> None:
    x, y, half = where
    if thing == "house":
        pen.polygon([(x - half, y), (x, y - half), (x + half, y), (x + half, y + half), (x - half, y + half)], ink)
    elif thing == "tree":
        pen.ellipse([x - half * 0.7, y - half, x + half * 0.7, y + half * 0.4], ink)
        pen.rectangle([x - 1, y, x + 1, y + half], ink)
    elif thing == "fish":
        pen.ellipse([x - half, y - half / 2, x + half * 0.5, y + half / 2], ink)
        pen.polygon([(x + half * 0.3, y), (x + half, y - half / 2), (x + half, y + half / 2)], ink)
    else:
        pen.polygon([(x - half, y + half * 0.3), (x + half, y + half * 0.3), (x + half / 2, y + half), (x - half / 2, y + half)], ink)
        pen.line([x, y - half, x, y + half * 0.3], ink, 2)


def write_pictures(folder: Path, texts: bool) -> Path:
    """PNG files of the test drawings beside their `data.jsonl`, as `trimodal compress` reads them, with sentences or with labels; returns
    `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(TEST):
        kind, name = number % len(KINDS), f"picture-{number:02}.png"
        draw_picture(kind, 100_000 + number).save(folder / name)
        said = {"text": CAPTIONS[kind]} if texts else {"label": THINGS.index(KINDS[kind][2])}
        lines.append(json.dumps({"image": name, **said}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_classifier(folder: Path) -> None:
    """A ViT that names the thing; its labels are words."""
    write_miniature("vit", folder)
    config = hf.ViTConfig.from_pretrained(folder, id2label=dict(enumerate(THINGS)), label2id={name: i for i, name in enumerate(THINGS)})
    torch.manual_seed(0)
    module = hf.ViTForImageClassification(config)
    kinds, pixels = _read_training(folder)
    labels = torch.tensor([THINGS.index(KINDS[kind][2]) for kind in kinds])

    def lose(places: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(module(pixel_values=pixels[places]).logits, labels[places])

    _train(module, lose)
    module.save_pretrained(folder)


def write_matcher(folder: Path) -> None:
    """A CLIP that puts a drawing near its sentence."""
    write_miniature("clip", folder)
    torch.manual_seed(0)
    module = hf.CLIPModel(hf.CLIPConfig.from_pretrained(folder))
    kinds, pixels = _read_training(folder)
    words, right = hf.AutoTokenizer.from_pretrained(folder)(list(CAPTIONS), padding=True, return_tensors="pt"), torch.tensor(kinds)

    def lose(places: torch.Tensor) -> torch.Tensor:
        found = module(**words, pixel_values=pixels[places])
        return torch.nn.functional.cross_entropy(found.logits_per_image, right[places])

    _train(module, lose)
    module.save_pretrained(folder)


def _read_training(folder: Path) -> tuple[Sequence[int], torch.Tensor]:
    """Which sentence each training drawing shows, and pixels (TRAINING, 3, SIDE, SIDE) as the folder's processor reads them."""
    processor = hf.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    kinds = [seed % len(KINDS) for seed in range(TRAINING)]
    return kinds, processor([draw_picture(kind, seed) for seed, kind in enumerate(kinds)], return_tensors="pt")["pixel_values"]


def _train(module: Any, lose: Any) -> None:
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    for _ in range(STEPS):
        loss = lose(torch.randint(TRAINING, (BATCH,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    module.eval()

"""Drawn digits and the over-parameterised network that `benchmarks.deep_compression` compresses.

Digits of Pillow's own font in three stroke widths, each picture turned, sheared, scaled and shifted at random, bent by a
smooth field, blurred and covered with noise: 28 × 28 grey. Training and test pictures come from different seeds. The
network is LeNet-300-100, the fully connected one of Han et al. 2015 (266,610 parameters), trained here in seconds.

Everything lies in a cache that git ignores: the pictures as PNG files with a `data.jsonl`, as `trimodal compress` reads
them, and the trained weights by seed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import affine_grid, avg_pool2d, cross_entropy, grid_sample, interpolate

from trimodal.models.model import Output
from trimodal.training.batchwise import train_on_batches
from trimodal.training.settings import EngineSettings

CACHE = Path(".cache")
TRAINING, TEST = 20_000, 6_000
STEPS, BATCH, LEARNING_RATE = 1_500, 128, 1.5e-3
_PLATE, _SIDE = 64, 28


class Classifier(nn.Module):
    """Fully connected, 784 pixels to ten scores, with `hidden` units in between."""

    modalities = ("image",)
    outputs = (Output("output", "image", "logits", label="label"),)

    def __init__(self, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [_SIDE * _SIDE, *hidden, 10]
        layers: list[nn.Module] = []
        for inputs, units in pairwise(sizes):
            layers += [nn.Linear(inputs, units), nn.ReLU()]
        self.vision = nn.Sequential(*layers[:-1])

    def encode(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """Pixels (batch, 784) of the samples' images, 1 is full ink."""
        flat = [list(sample.image.convert("L").tobytes()) for sample in samples]
        return {"pixels": torch.tensor(flat, dtype=torch.float32) / 255}

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (batch, 784) -> scores (batch, 10)."""
        scores: Tensor = self.vision(pixels)
        return scores


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures uint8 (count, 28, 28), 255 is full ink, and their digits (count,)."""
    chance = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=chance)

    plates = torch.stack([_plate(digit, stroke) for digit in range(10) for stroke in range(3)])  # (30, 64, 64)
    digits = torch.randint(0, 10, (count,), generator=chance)
    chosen = digits * 3 + torch.randint(0, 3, (count,), generator=chance)
    angle, shear = between(-0.25, 0.25), between(-0.25, 0.25)
    wide, high = between(0.8, 1.15), between(0.8, 1.05)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    lean = torch.stack([torch.ones(count), shear, torch.zeros(count), torch.ones(count)], dim=1).view(-1, 2, 2)
    matrix = torch.cat([turn @ lean * torch.stack([wide, high], dim=1)[:, None], between(-0.12, 0.12, 2, 1)], dim=2)
    bends = interpolate(between(-0.1, 0.1, 2, 4, 4), size=(_SIDE, _SIDE), mode="bicubic", align_corners=True)
    found = []
    for part in torch.arange(count).split(2000):
        grid = affine_grid(matrix[part], [len(part), 1, _SIDE, _SIDE], align_corners=False)
        seen = grid_sample(plates[chosen[part]][:, None], grid + bends[part].permute(0, 2, 3, 1), align_corners=False)
        found.append(avg_pool2d(seen, 3, stride=1, padding=1) * 0.5 + seen * 0.5)
    ink = torch.cat(found)[:, 0] * between(0.5, 1.0, 1, 1)
    noisy = ink + between(0.0, 0.15, 1, 1) * torch.randn(ink.shape, generator=chance)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8), digits


def _plate(digit: int, stroke: int) -> Tensor:
    """One digit (64, 64), drawn in the middle, in floats from 0 to 1."""
    image = Image.new("L", (_PLATE, _PLATE))
    font = ImageFont.load_default(size=52)
    ImageDraw.Draw(image).text((_PLATE / 2, _PLATE / 2), str(digit), 255, font, anchor="mm", stroke_width=stroke)
    return torch.tensor(list(image.tobytes()), dtype=torch.float32).view(_PLATE, _PLATE) / 255


def samples(split: str) -> tuple[Tensor, Tensor]:
    """Pixels (n, 784) from 0 to 1 and digits (n,) of a split: `train`, `test`, or `validation`, on which the benchmark's
    settings were chosen."""
    seeds = {"train": 1, "test": 2, "validation": 3}
    pictures, digits = draw(TRAINING if split == "train" else TEST, seeds[split])
    return pictures.flatten(1).float() / 255, digits


def data(cached: Path = CACHE) -> Path:
    """The folder with all pictures and `data.jsonl`; writes it first if it is not there."""
    here = cached / "drawndigits"
    if (here / "data.jsonl").is_file():
        return here
    shutil.rmtree(here, ignore_errors=True)
    lines = []
    for split, count, seed in (("train", TRAINING, 1), ("test", TEST, 2)):
        (here / split).mkdir(parents=True)
        for number, (picture, digit) in enumerate(zip(*draw(count, seed), strict=True)):
            Image.fromarray(picture.numpy()).save(here / split / f"{number}.png")
            lines.append({"image": f"{split}/{number}.png", "label": int(digit), "split": split})
    (here / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return here


def taught(model: Classifier, seed: int, steps: int = STEPS) -> Classifier:
    """`model` trained on the training pictures and their digits."""
    pixels, digits = samples("train")
    chance = torch.Generator().manual_seed(seed)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        index = torch.randint(0, len(pixels), (BATCH,), generator=chance)
        return pixels[index], digits[index]

    def loss(module: nn.Module, part: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(module(part[0]), part[1])

    settings = EngineSettings(steps, learning_rate=LEARNING_RATE, weight_decay=0.05, seed=seed)
    train_on_batches(model, batch, loss, settings)
    return model


def weights(seed: int, cached: Path = CACHE) -> Path:
    """The file with the trained LeNet-300-100; trains it first if it is not there."""
    file = cached / f"lenet300-{seed}.safetensors"
    if not file.is_file():
        torch.manual_seed(seed)
        model = taught(Classifier((300, 100)), seed)
        cached.mkdir(exist_ok=True)
        save_file(model.state_dict(), file)
    return file


def accuracy(model: nn.Module, pixels: Tensor, digits: Tensor) -> float:
    """Share of the pictures that are recognised, in percent."""
    with torch.inference_mode():
        return float((model.eval()(pixels).argmax(1) == digits).double().mean() * 100)


def _lenet300(seed: int) -> Classifier:
    model = Classifier((300, 100))
    model.load_state_dict(load_file(weights(seed)))
    return model


def lenet300_0() -> Classifier:
    """The network trained with seed 0."""
    return _lenet300(0)


def lenet300_1() -> Classifier:
    """The network trained with seed 1."""
    return _lenet300(1)


def lenet300_2() -> Classifier:
    """The network trained with seed 2."""
    return _lenet300(2)

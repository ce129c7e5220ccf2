"""Deep Compression (Han, Mao, Dally 2016, arXiv 1510.00149): prune, share, entropy-code, each stage with its size on disk.

`python -m benchmarks.deep_compression` renders digits (28 × 28, turned, sheared, scaled, shifted, blurred, with noise;
20,000 to train with and 5,000 to test, from other seeds), trains the paper's LeNet-300-100 on them, and compresses it
through the public pipeline from a factory function. The recipe is the built-in `deep` with a sparsity and table size for
this over-parameterised net. Sizes are those of the weight file, header and all; the original's are its safetensors file.

The control is a dense net of the same layers, narrower, with as many bytes in float32 as the smallest file, trained from
scratch for as long as the original. The last table asks whether going in rounds is worth it: the same sparsity at once,
with all of the recovery afterwards.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.passlines import PassLine, finish, table

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

SEEDS = (0, 1, 2)
TRAIN, TEST, SIDE, EPOCHS, BATCH = 20_000, 5_000, 28, 20, 128
SPARSITY, LAST, BITS, ROUNDS, STEPS = 0.945, 0.7, 4, 5, 200
RECOVER = {"batch": 128, "learning_rate": 1e-3}
CACHE = Path(".cache")
SEED = "TRIMODAL_DEEP_SEED"
"""The environment variable that tells the factory which trained net to give."""


def pruning(gradual: bool) -> list[dict[str, Any]]:
    """The first stage: in rounds with recovery between, or at once; as many steps of recovery in all. The last layer, which
    has a thousand weights, keeps more of them, as in the paper."""
    prune: dict[str, Any] = {"where": "*", "sparsity": SPARSITY, "but": {"path:layers.2": {"sparsity": LAST}}}
    if gradual:
        prune["gradual"] = {"rounds": ROUNDS, "begin": 0.5, "recover": {"steps": STEPS, **RECOVER}}
        return [{"prune.magnitude": prune}, {"distill": {"steps": ROUNDS * STEPS, **RECOVER}}]
    return [{"prune.magnitude": prune}, {"distill": {"steps": 2 * ROUNDS * STEPS, **RECOVER}}]


SHARING = [
    {"quantize.rtn": {"where": "*", "bits": BITS, "group": "tensor", "grid": "kmeans"}},
    {"distill": {"steps": 2 * STEPS, "batch": 128, "learning_rate": 2e-4}},
]


@cache
def digits(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 784) float32 from 0 to 1 and their digits (count,); kept in the cache."""
    import numpy as np

    file = CACHE / f"digits-{count}-{seed}.npz"
    if not file.exists():
        random = np.random.default_rng(seed)
        labels = random.integers(0, 10, count)
        images = np.stack([_drawn(int(label), random) for label in labels])
        file.parent.mkdir(exist_ok=True)
        np.savez_compressed(file, images=images, labels=labels)
    with np.load(file) as found:
        return found["images"].astype(np.float32).reshape(count, -1) / 255, found["labels"]


def _drawn(digit: int, random: np.random.Generator) -> np.ndarray:
    """One digit in Pillow's own font, distorted; uint8 (28, 28)."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    large = Image.new("L", (4 * SIDE, 4 * SIDE))
    font = ImageFont.load_default(size=int(random.integers(62, 92)))
    centre = 2 * SIDE
    ImageDraw.Draw(large).text((centre, centre), str(digit), fill=255, font=font, anchor="mm",
                               stroke_width=int(random.integers(0, 5)), stroke_fill=255)  # fmt: skip
    angle, shear = random.normal(0, 0.12), random.normal(0, 0.12)
    across, down = random.uniform(0.8, 1.25, 2)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = (cos / across, (shear * cos - sin) / down, sin / across, (shear * sin + cos) / down)
    shift = random.uniform(-6, 6, 2)
    offset = [centre - (matrix[2 * i] * centre + matrix[2 * i + 1] * centre) + shift[i] for i in (0, 1)]
    affine = (matrix[0], matrix[1], offset[0], matrix[2], matrix[3], offset[1])
    turned = large.transform(large.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    small = turned.filter(ImageFilter.GaussianBlur(random.uniform(0, 4))).resize((SIDE, SIDE), Image.Resampling.BOX)
    noisy = np.asarray(small, dtype=np.float32) * random.uniform(0.5, 1) + random.normal(0, 16, (SIDE, SIDE))
    return noisy.clip(0, 255).astype(np.uint8)


def net(widths: tuple[int, ...] = (300, 100)) -> nn.Module:
    """LeNet-300-100, or a narrower one, in the form that trimodal takes any module in."""
    import torch
    from torch import nn

    from trimodal.models.model import Output

    class LeNet(nn.Module):
        outputs = (Output("output", "text", "logits", label="label"),)
        modalities = ("text",)

        def __init__(self) -> None:
            super().__init__()
            sizes = (SIDE * SIDE, *widths, 10)
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

        def encode(self, loaded: list[Any]) -> dict[str, Tensor]:
            """A sample's text says which set and which image of it."""
            chosen = [tuple(map(int, one.text.split())) for one in loaded]
            return {"x": torch.stack([torch.from_numpy(digits(*which)[0][at]) for *which, at in chosen])}

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers[:-1]:
                x = torch.relu(layer(x))
            scores: Tensor = self.layers[-1](x)
            return scores

    return LeNet()


def trained() -> nn.Module:
    """The factory that `trimodal compress` is given: the net trained from the seed in the environment."""
    from safetensors.torch import load_model

    module = net()
    load_model(module, _weights(int(os.environ[SEED])))
    return module


def _weights(seed: int) -> Path:
    return CACHE / f"lenet-{seed}.safetensors"


def train(module: nn.Module, seed: int) -> None:
    """Adam, cosine, cross-entropy."""
    import torch

    images, labels = (torch.from_numpy(part) for part in digits(TRAIN, 1))
    generator = torch.Generator().manual_seed(seed)
    steps = EPOCHS * (TRAIN // BATCH)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(TRAIN, generator=generator)[: TRAIN // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()


def accuracy(module: nn.Module) -> float:
    """Percent of the test digits read right."""
    import torch

    images, labels = (torch.from_numpy(part) for part in digits(TEST, 2))
    with torch.inference_mode():
        return 100 * float((module(images).argmax(dim=1) == labels).float().mean())


def compressed(steps: list[dict[str, Any]], seed: int, pack: str, folder: Path) -> tuple[int, float, float]:
    """Bytes of the weight file, accuracy of what is loaded from it, and seconds, after `steps` by the public pipeline."""
    from trimodal import pipeline
    from trimodal.formats import load, size_of

    labels = {1: digits(TRAIN, 1)[1], 2: digits(TEST, 2)[1]}
    data = folder / "data.jsonl"
    lines = [
        {"text": f"{count} {source} {at}", "label": int(labels[source][at]), "split": split}
        for count, source, split, used in ((TRAIN, 1, "train", TRAIN), (TEST, 2, "test", 500)) for at in range(used)
    ]  # fmt: skip
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = time.perf_counter()
    factory = "benchmarks.deep_compression:trained"
    recipe = {"steps": steps, "seed": seed}
    pipeline.compress(factory, recipe, data, folder / "out", pack=pack, force=True)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    return size_of(folder / "out")[1], accuracy(load(folder / "out", factory=factory)), seconds


def control(size: int, seed: int) -> tuple[int, float]:
    """Bytes and accuracy of a narrower dense net that is no larger than `size` bytes in float32."""
    import torch

    widths = (300, 100)
    for first in range(299, 1, -1):
        widths = first, max(2, first // 3)
        sizes = (SIDE * SIDE, *widths, 10)
        if 4 * sum(a * b + b for a, b in pairwise(sizes)) <= size:
            break
    torch.manual_seed(seed)
    module = net(widths)
    train(module, seed)
    return 4 * sum(p.numel() for p in module.parameters()), accuracy(module)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    chosen = parser.parse_args()
    import torch
    from safetensors.torch import save_model

    sys.path.insert(0, str(Path.cwd()))  # the fresh process that loads the result again looks for the factory there
    sharing = [*pruning(True), *SHARING]
    stages = {
        "prune in rounds": (pruning(True), "plain"), "+ shared tables": (sharing, "plain"), "+ entropy": (sharing, "entropy"),
        "prune at once": (pruning(False), "plain"),
    }  # fmt: skip
    found: dict[str, list[tuple[int, float]]] = {}
    for seed in chosen.seeds:
        os.environ[SEED] = str(seed)
        torch.manual_seed(seed)
        if not _weights(seed).exists():
            module = net()
            train(module, seed)
            save_model(module, _weights(seed))
        found.setdefault("float32", []).append((_weights(seed).stat().st_size, accuracy(trained())))
        for name, (steps, pack) in stages.items():
            with tempfile.TemporaryDirectory() as scratch:
                size, score, seconds = compressed(steps, seed, pack, Path(scratch))
            found.setdefault(name, []).append((size, score))
            print(f"seed {seed}  {name}  {size:,} bytes  {score:.2f} %  {seconds:.0f} s", flush=True)
        found.setdefault("dense net of equal bytes", []).append(control(found["+ entropy"][-1][0], seed))
    print()
    whole = [size for size, _ in found["float32"]]
    plain = [score for _, score in found["float32"]]
    rows = [
        (name, f"{statistics.mean(size for size, _ in runs):,.0f}",
         f"{statistics.mean(w / size for w, (size, _) in zip(whole, runs)):.1f}x",
         f"{statistics.mean(score for _, score in runs):.2f} ({min(s for _, s in runs):.2f} … {max(s for _, s in runs):.2f})",
         f"{statistics.mean(p - score for p, (_, score) in zip(plain, runs)):+.2f}")
        for name, runs in found.items()
    ]  # fmt: skip
    print(table(("stage", "weight file, bytes", "smaller", f"accuracy, % of {TEST:,}", "points lost"), rows))
    smaller = min(w / size for w, (size, _) in zip(whole, found["+ entropy"]))
    lost = max(p - score for p, (_, score) in zip(plain, found["+ entropy"]))
    rounds = statistics.mean(score for _, score in found["prune in rounds"])
    once = statistics.mean(score for _, score in found["prune at once"])
    print(f"{len(chosen.seeds)} trainings; sparsity {SPARSITY:g}, {BITS}-bit tables; the paper's headline: 35x and 49x")
    finish([
        PassLine("times smaller, worst seed", smaller, least=35),
        PassLine("times smaller, worst seed (our goal)", smaller, least=49),
        PassLine("points lost, worst seed", lost, most=0.5),
        PassLine("points that pruning in rounds gains on pruning at once", rounds - once, least=0.0),
    ])  # fmt: skip


if __name__ == "__main__":
    main()

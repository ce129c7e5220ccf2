"""A loaded artifact in plain PyTorch against its original: CPU seconds per call, for every built-in recipe.

`python -m benchmarks.eager` compresses the real all-MiniLM-L6-v2, a vision Transformer and an audio spectrogram Transformer (384 wide,
4 blocks, random weights: how long a product takes does not depend on its numbers) by every built-in recipe, writes the artifact, and
loads it with `trimodal.load(OUT)` as anybody would. Training is cut to single steps, since the time of a call does not depend on them
either. Every call of an artifact stands right beside one of the original, in alternating order, on one thread; what counts is the
median ratio of the two. The row `as it was` is a copy of the original: what it differs from 1 by is noise.

`kept` is what decoded weights take in memory beside the file's tensors, `memory` the ratio under the policy `memory`, where each weight
is decoded at every call. What the two policies give differs by `difference`, relative to the output's norm: 0 where inputs are floats.
Where they are rounded, a difference in the last bit of one layer is now and then a whole step of the next one's input.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.memory import planned_and_compressed
from benchmarks.minilm import model_folder
from benchmarks.passlines import PassLine, finish, table

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trimodal.core import Sample
    from trimodal.models.model import Model

MOST = 1.05
SAME = "as it was"
SAMPLES, WIDTH, BLOCKS, FRAMES, TOKENS, PIXELS = 8, 384, 4, 256, 64, 224
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 6, "intermediate_size": 4 * WIDTH, "num_labels": 100}


@dataclass(frozen=True)
class Measured:
    """CPU seconds of a call, the ratio to the original's, that under the policy `memory`, bytes kept, and the difference."""

    seconds: float
    ratio: float
    in_memory: float
    kept: int
    difference: float


def write_vision(folder: Path) -> Mapping[str, Tensor]:
    import torch
    import transformers as t
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    t.ViTForImageClassification(t.ViTConfig(**SIZES)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"height": PIXELS, "width": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}).save_pretrained(folder)
    return {"pixel_values": torch.randn(1, 3, PIXELS, PIXELS)}


def write_audio(folder: Path) -> Mapping[str, Tensor]:
    import torch
    import transformers as t

    t.ASTForAudioClassification(t.ASTConfig(**SIZES, max_length=FRAMES)).save_pretrained(folder)
    t.ASTFeatureExtractor(sampling_rate=16000, max_length=FRAMES).save_pretrained(folder)
    return {"input_values": torch.randn(1, FRAMES, 128)}


def copy_text(folder: Path) -> Mapping[str, Tensor]:
    import shutil

    import torch

    shutil.copytree(model_folder(), folder)
    words = torch.randint(1000, 20000, (1, TOKENS))
    return {"input_ids": words, "attention_mask": torch.ones_like(words)}


MODELS: Mapping[str, tuple[str, Callable[[Path], Mapping[str, Tensor]]]] = {
    "MiniLM": ("text", copy_text), "ViT": ("image", write_vision), "AST": ("audio", write_audio),
}  # fmt: skip


def read_steps(recipe: str) -> list[dict[str, Any]]:
    """The steps of a built-in recipe, trained for one step each."""
    from importlib.resources import files

    found = yaml.safe_load(files("trimodal.planning").joinpath("recipes", f"{recipe}.yaml").read_text(encoding="utf-8"))

    def shorten(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: {"steps": 1, "batch": 2, "times": 2}.get(key, shorten(value)) for key, value in part.items()}
        return part

    return [shorten(step) for step in found["steps"]]


def list_recipes() -> list[str]:
    from importlib.resources import files

    names = [file.name for file in files("trimodal.planning").joinpath("recipes").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def write_compressed(original: Model, recipe: str, samples: list[Sample], folder: Path) -> None:
    from trimodal.formats import pack_weights_, write_artifact

    model, plan, *_ = planned_and_compressed(original, read_steps(recipe), samples, teacher=True)
    folder.mkdir()
    write_artifact(model, plan, folder, None)
    if recipe in ("deep", "small"):
        pack_weights_(folder)


def seconds(module: nn.Module, batch: Mapping[str, Tensor]) -> float:
    begin = time.process_time()
    module(**batch)
    return time.process_time() - begin


def measure(original: nn.Module, other: nn.Module, batch: Mapping[str, Tensor], rounds: int) -> tuple[float, float]:
    """Median CPU seconds of a call of `other`, and the median of its ratio to the original's, both in turn."""
    for module in (original, other):
        module(**batch)
    taken, ratios = [], []
    for number in range(rounds):
        pair = [original, other] if number % 2 else [other, original]
        times = [seconds(module, batch) for module in pair]
        before, after = times if number % 2 else times[::-1]
        taken.append(after)
        ratios.append(after / before)
    return statistics.median(taken), statistics.median(ratios)


def measure_recipe(original: nn.Module, out: Path, batch: Mapping[str, Tensor], rounds: int) -> Measured:
    import trimodal
    from trimodal.formats.stock_load_check import collect_outputs
    from trimodal.layers import count_kept_bytes, set_dequantize_policy_

    loaded = trimodal.load(out)
    took, ratio = measure(original, loaded, batch, rounds)
    kept, found = count_kept_bytes(loaded), collect_outputs(loaded, batch)
    set_dequantize_policy_(loaded, "memory")
    _, in_memory = measure(original, loaded, batch, 3)
    wanted = collect_outputs(loaded, batch)
    error = max(float((found[key] - wanted[key]).norm() / wanted[key].norm()) for key in wanted)
    return Measured(took, ratio, in_memory, kept, error)


def measure_model(name: str, rounds: int, scratch: Path) -> dict[str, Measured]:
    """By recipe, and for a copy of the original."""
    import torch

    from trimodal.data import open_source
    from trimodal.formats import open_model
    from trimodal.networks.tiny import write_miniature_data

    torch.manual_seed(0)
    modality, write = MODELS[name]
    batch = write(scratch / name)
    original = open_model(scratch / name)
    samples = list(open_source(write_miniature_data(scratch / f"{name}-data", SAMPLES, [modality])))
    with torch.inference_mode(False):
        for recipe in list_recipes():
            write_compressed(original, recipe, samples, scratch / f"{name}-{recipe}")
    with torch.inference_mode():
        took, ratio = measure(original.module, copy.deepcopy(original.module), batch, rounds)
        found = {SAME: Measured(took, ratio, math.nan, 0, 0.0)}
        for recipe in list_recipes():
            found[recipe] = measure_recipe(original.module, scratch / f"{name}-{recipe}", batch, rounds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", default="", help="models with this text in their name")
    chosen = parser.parse_args()
    import torch

    from trimodal.maths.integer_products import has_exact_integer_products
    from trimodal.verification.footprint import detect_machine

    torch.set_num_threads(1)
    machine, exact = detect_machine(), has_exact_integer_products()
    print(f"{machine.processor}, {machine.instructions}; PyTorch runs {torch.backends.cpu.get_cpu_capability()}, one thread;")
    print(f"8-bit products {'quick and exact: used' if exact else 'not quick and exact here: products are made in floats'}\n")
    lines = []
    for name in (name for name in MODELS if chosen.only in name):
        with tempfile.TemporaryDirectory() as folder:
            found = measure_model(name, chosen.rounds, Path(folder))
        rows = [
            (recipe, f"{1e3 * one.seconds:.2f}", f"{one.ratio:.3f}", "" if math.isnan(one.in_memory) else f"{one.in_memory:.2f}",
             f"{one.kept / 2**20:.1f}", f"{one.difference:.0e}")
            for recipe, one in found.items()
        ]  # fmt: skip
        print(f"{name}\n\n{table(('recipe', 'CPU ms', 'ratio', 'memory', 'kept MiB', 'difference'), rows)}\n", flush=True)
        lines += [PassLine(f"CPU seconds per call over the original's, {name}, {recipe}", one.ratio, most=MOST)
                  for recipe, one in found.items() if recipe != SAME]  # fmt: skip
    finish(lines)


if __name__ == "__main__":
    main()

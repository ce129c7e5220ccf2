"""The models of `benchmarks.qat`, each trained once, here, with data to calibrate and learn on and other data to measure on.

    vit    a small Vision Transformer that says which shape is drawn (examples/training/classify.yaml)
    clip   CLIP's own classes, small: drawings and their captions (examples/training/retrieve.yaml)
    words  a small Llama on the sources of Python's standard library, in pieces of 120 characters
    demo   the see-hear-read model that comes with the package
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trimodal
from benchmarks import charmodel
from examples.training.draw_shapes import write_shapes
from trimodal.core import Sample
from trimodal.data import open_data
from trimodal.demo.seehearread import write_dataset
from trimodal.demo.training import unpack_demo_model

CACHE = Path(".cache/qat")
_TRAINED, _TESTED = 2400, 2000
_VIT = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 32, "patch_size": 4}
_TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 32}
_SIDE = {"height": 32, "width": 32}
_LLAMA = {
    "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
    "max_position_embeddings": 128, "tie_word_embeddings": False,
}  # fmt: skip
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "vit": {
        "model": {
            "class": "ViTForImageClassification", "config": _VIT, "processors": {"image": {"class": "ViTImageProcessor", "size": _SIDE}},
        },
        "task": "classify", "steps": 800, "batch": 32, "learning_rate": 3e-3,
    },
    "clip": {
        "model": {
            "class": "CLIPModel",
            "config": {"projection_dim": 32, "text_config": _TEXT, "vision_config": {**_VIT}},
            "processors": {"image": {"class": "CLIPImageProcessor", "size": _SIDE, "crop_size": _SIDE}, "text": {"vocabulary": 320}},
        },
        "task": "retrieve", "steps": 500, "batch": 40, "learning_rate": 2e-3,
    },
    "words": {
        "model": {"class": "LlamaForCausalLM", "config": _LLAMA, "processors": {"text": {"vocabulary": 384}}},
        "task": "generate", "steps": 800, "batch": 16, "learning_rate": 3e-3,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A trained model's folder, what it may learn from, and what it is measured on."""

    folder: Path
    learning: Sequence[Sample]
    test: Sequence[Sample]


def make_subject(name: str, quick: bool) -> Subject:
    """The model `name`, trained now where it is not in the cache; `quick` trains a tenth and measures a tenth."""
    part = 10 if quick else 1
    return _make_demo(part) if name == "demo" else _make_trained(name, part)


def _make_trained(name: str, part: int) -> Subject:
    learning, test = _list_rows(name, part)
    folder = CACHE / f"{name}-0{'-quick' if part > 1 else ''}"
    if not (folder / "training.json").is_file():
        config = {**CONFIGS[name], "seed": 0, "evaluate_every": 0, "track": "none"}
        config["steps"] = CONFIGS[name]["steps"] // part
        trimodal.train(config, data=learning, out=folder, force=True)
    return Subject(folder, list(open_data(learning)), list(open_data(test)))


def _list_rows(name: str, part: int) -> tuple[Any, Any]:
    """Where to learn and where to measure: files of drawings, or rows of text."""
    if name == "words":
        texts = charmodel.texts()
        cut = [text[: size // part] for text, size in ((texts.training, 1_200_000), (texts.held_out, 60_000))]
        return tuple([{"text": text[at : at + 120]} for at in range(0, len(text) - 120, 120)] for text in cut)
    file = {"vit": "shapes.jsonl", "clip": "captions.jsonl"}[name]
    return tuple(_draw(seed, count // part) / file for seed, count in ((0, _TRAINED), (1, _TESTED)))


def _draw(seed: int, count: int) -> Path:
    folder = CACHE / f"shapes-{seed}-{count}"
    return folder if (folder / "captions.jsonl").is_file() else write_shapes(folder, count, seed)


def _make_demo(part: int) -> Subject:
    folder, data = CACHE / "demo", CACHE / f"demo-data-{part}"
    if not (folder / "config.json").is_file():
        unpack_demo_model(folder)
    if not (data / "data.jsonl").is_file():
        write_dataset(data, train=4000 // part, test=2000 // part, seed=0)
    samples = list(open_data(data))
    return Subject(folder, *([s for s in samples if s.split == split] for split in ("train", "test")))


"""What artifacts answer in Python, without anything of serving: their exported files in their runtime, the module of `trimodal.load`, and
Transformers' own processors before both.

What is served must answer as its own runtime does, within `SAME` of the largest number. It is as far from PyTorch as the runtime's rounding
takes it, within `ROUNDED`: ONNX Runtime rounds the inputs of products with codes to 8 bits (docs/export.md), OpenVINO adds in another
order.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import torch
from client_questions import Question, as_bytes
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer

import trimodal

Arrays = Mapping[str, NDArray[Any]]
Answered = tuple[str, dict[str, NDArray[Any]], dict[str, NDArray[Any]], dict[str, int]]
"""A model's name, what it is asked, what it answers, and the parameters."""
SAME, ROUNDED = 1e-5, 0.03
TOKENS, LABELS, TEXTS = 6, ["old", "what is this", "a loud dog"], ["larger old", "what"]
WHAT = "what is this"


class Engine(Protocol):
    """An artifact that computes: `run` one of its components, or let it `say` what follows (tokens int64 (batch, new))."""

    def run(self, component: str, arrays: Arrays) -> dict[str, NDArray[Any]]: ...
    def say(self, arrays: Arrays) -> NDArray[np.int64]: ...


class TorchEngine:
    """The module of `trimodal.load`, or as it was published."""

    def __init__(self, folder: Path) -> None:
        self.module: Any = trimodal.load(folder).eval()

    def run(self, component: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        given = {name: torch.from_numpy(value) for name, value in arrays.items()}
        calls: dict[str, Callable[[], Mapping[str, Any]]] = {
            "model": lambda: self.module(**given),
            "vision_model": lambda: {"image_embeds": self.module.get_image_features(**given).pooler_output},
            "text_model": lambda: {"text_embeds": self.module.get_text_features(**given).pooler_output},
            "audio_model": lambda: {"audio_embeds": self.module.get_audio_features(**given).pooler_output},
            "encoder_model": lambda: self.module.model.encoder(given["input_features"]),
        }
        with torch.inference_mode():
            return {name: value.numpy() for name, value in calls[component]().items() if isinstance(value, torch.Tensor)}

    def say(self, arrays: Arrays) -> NDArray[np.int64]:
        given = {name: torch.from_numpy(value) for name, value in arrays.items()}
        with torch.inference_mode():
            said = self.module.generate(**given, max_new_tokens=TOKENS, do_sample=False)
        return np.asarray(said[:, given["input_ids"].shape[1] if "input_ids" in given else 0 :])


class ExportedEngine:
    """The files that `trimodal export` wrote, in the runtime that they were tried in."""

    def __init__(self, folder: Path) -> None:
        self.model = trimodal.open_export(folder)

    def run(self, component: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        return self.model.run(component, arrays)

    def say(self, arrays: Arrays) -> NDArray[np.int64]:
        return self.model.generate(arrays, max_new_tokens=TOKENS)


def list_questions(folders: Mapping[str, Path], images: Sequence[bytes], sounds: Mapping[int, Sequence[bytes]]) -> list[Question]:
    """What all clients ask, and the answers of Python; `sounds` by sampling rate."""
    return [question for name, folder in folders.items() for question in _list_for(name, folder, images, sounds)]


def _list_for(name: str, folder: Path, images: Sequence[bytes], sounds: Mapping[int, Sequence[bytes]]) -> list[Question]:
    config = (folder / "config.json").read_text(encoding="utf-8")
    processor: Any = (AutoTokenizer if '"bert"' in config else AutoProcessor).from_pretrained(folder)
    exported = [place for place in (folder / "onnx", folder / "openvino") if place.is_dir()]
    asked = {
        "see": lambda engine: ask_see(engine, processor, torch_engine.module.config.id2label, images, sounds),
        "clip": lambda engine: ask_clip(engine, processor, math.exp(torch_engine.module.logit_scale.item()), images),
        "minilm": lambda engine: ask_minilm(engine, processor),
        "whisper": lambda engine: ask_whisper(engine, processor, sounds[16_000]),
        "llava": lambda engine: ask_llava(engine, processor, images[:1]),
        "clap": lambda engine: ask_clap(engine, processor, sounds[16_000][:1]),
    }[name]
    torch_engine = TorchEngine(folder)
    by_torch = asked(torch_engine)
    if not exported:
        return [Question(*one, {"torch": SAME}, {"torch": answers}, rest) for *one, answers, rest in by_torch]
    found = []
    for (*one, answers, rest), (*_, loose, _) in zip(asked(ExportedEngine(exported[0])), by_torch, strict=True):
        found.append(Question(*one, {"runtime": SAME, "torch": ROUNDED}, {"runtime": answers, "torch": loose}, rest))
    return found


def ask_see(
    engine: Engine, processor: Any, named: Mapping[int, str], images: Sequence[bytes], sounds: Mapping[int, Sequence[bytes]]
) -> list[Answered]:
    """Two questions with a picture and a sound each, as files and as tensors."""
    files, words = sounds[processor.feature_extractor.sampling_rate], ["what is the sum", "which is larger"]
    given = as_arrays(processor(images=open_images(images, "L"), audio=open_sounds(files), text=words))
    scores = {name: value for name, value in engine.run("model", given).items() if name.endswith("logits")}
    answers: dict[str, NDArray[Any]] = {}
    for name, value in scores.items():
        before, width = "" if name == "logits" else f"{name}.", value.shape[1]
        labels = [(named[n] if len(named) == width else str(n)).encode() for n in range(width)]
        answers |= {f"{before}label": np.array([labels] * len(value), dtype=object), f"{before}score": to_shares(value)}
    asked = {"image": as_bytes(images), "audio": as_bytes(files), "text": as_bytes(words)}
    return [("see.model", given, scores, {}), ("see.classify", asked, answers, {"top": 100})]


def ask_clip(engine: Engine, processor: Any, scale: float, images: Sequence[bytes]) -> list[Answered]:
    """Vectors of images and texts, images by texts, and the tensors of both towers."""
    pixels = as_arrays(processor(images=open_images(images), return_tensors="pt"))
    words = as_arrays(processor(text=TEXTS, padding=True, return_tensors="pt"))
    labels = as_arrays(processor(text=LABELS, padding=True, return_tensors="pt"))
    seen, read = engine.run("vision_model", pixels)["image_embeds"], engine.run("text_model", words)["text_embeds"]
    shares = to_shares(scale * normalize(seen) @ normalize(engine.run("text_model", labels)["text_embeds"]).T)
    told = np.array([[label.encode() for label in LABELS]] * len(images), dtype=object)
    files = as_bytes(images)
    return [
        ("clip.embed", {"image": files}, {"embedding": normalize(seen)}, {}),
        ("clip.embed", {"text": as_bytes(TEXTS)}, {"embedding": normalize(read)}, {}),
        ("clip.classify", {"image": files, "labels": as_bytes(LABELS)}, {"label": told, "score": shares}, {}),
        ("clip.vision_model", pixels, {"image_embeds": seen}, {}),
        ("clip.text_model", words, {"text_embeds": read}, {}),
    ]


def ask_minilm(engine: Engine, processor: Any) -> list[Answered]:
    """Vectors of texts, alike whatever else is in the batch, and the tensors."""
    words = as_arrays(processor(TEXTS, padding=True, return_tensors="pt"))
    states, mask = engine.run("model", words)["last_hidden_state"], words["attention_mask"][..., None]
    vectors = normalize((states * mask).sum(1) / mask.sum(1)).astype(np.float32)
    return [
        ("minilm.embed", {"text": as_bytes(TEXTS)}, {"embedding": vectors}, {}),
        ("minilm", words, {"last_hidden_state": states}, {}),
    ]


def ask_whisper(engine: Engine, processor: Any, sounds: Sequence[bytes]) -> list[Answered]:
    """What is said, and the encoder's states."""
    heard = as_arrays(processor.feature_extractor(open_sounds(sounds), sampling_rate=16_000, return_tensors="pt"))
    texts = [processor.tokenizer.decode(row, skip_special_tokens=True) for row in engine.say(heard)]
    states = engine.run("encoder_model", heard)["last_hidden_state"]
    return [
        ("whisper.transcribe", {"audio": as_bytes(sounds)}, {"text": as_bytes(texts)}, {"max_tokens": TOKENS}),
        ("whisper.encoder_model", heard, {"last_hidden_state": states}, {}),
    ]


def ask_llava(engine: Engine, processor: Any, images: Sequence[bytes]) -> list[Answered]:
    """What it says of an image, asked as its template has it."""
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": WHAT}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    given = as_arrays(processor(images=open_images(images), text=[prompt], return_tensors="pt"))
    texts = [processor.tokenizer.decode(row, skip_special_tokens=True) for row in engine.say(given)]
    return [("llava.ask", {"image": as_bytes(images), "text": as_bytes([prompt])}, {"text": as_bytes(texts)}, {"max_tokens": TOKENS})]


def ask_clap(engine: Engine, processor: Any, sounds: Sequence[bytes]) -> list[Answered]:
    """Vectors of sounds."""
    heard = processor.feature_extractor(
        open_sounds(sounds), sampling_rate=16_000, padding="repeatpad", max_length=8000, return_tensors="pt"
    )
    vectors = normalize(engine.run("audio_model", {"input_features": heard["input_features"].numpy()})["audio_embeds"])
    return [("clap.embed", {"audio": as_bytes(sounds)}, {"embedding": vectors}, {})]


def open_images(files: Sequence[bytes], mode: str = "RGB") -> list[Image.Image]:
    return [Image.open(io.BytesIO(file)).convert(mode) for file in files]


def open_sounds(files: Sequence[bytes]) -> list[NDArray[np.float32]]:
    return [soundfile.read(io.BytesIO(file), dtype="float32")[0] for file in files]


def as_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    """As the files take them: whole numbers of 64 bits."""
    return {name: value.numpy() if value.is_floating_point() else value.long().numpy() for name, value in tensors.items()}


def normalize(vectors: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def to_shares(scores: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))

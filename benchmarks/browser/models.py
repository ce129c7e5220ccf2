"""The exported models, what they are asked, and what torch answers with the artifact's own weights."""

from __future__ import annotations

import json
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image

import trimodal
from benchmarks import minilm
from benchmarks.browser import listener, pictures

NAMES = ("minilm", "clip", "vit", "whisper")
UNSEEN = 200
SPOKEN = {"language": "en", "task": "transcribe"}
SENTENCES = [
    "A cat sits on the mat.", "The kitten is lying on a rug.", "Two dogs run across the field.", "Puppies are racing outside.",
    "The stock market fell sharply today.", "Shares lost much of their value.", "She plays the violin in an orchestra.",
    "He is a musician in a symphony.", "The train leaves at seven.", "Our railway trip starts early in the morning.",
    "Bake the bread for forty minutes.", "The loaf has to stay in the oven.", "It will rain tomorrow.",
    "The forecast says showers are coming.", "The doctor prescribed a medicine.", "A physician gave me pills.",
    "Python is a programming language.", "She writes software for a living.", "The moon orbits the earth.",
    "Planets circle their stars.",
]  # fmt: skip


def make_model(name: str, folder: Path) -> tuple[Path, Path]:
    """The float model of `name` and the data that it is compressed with; all but MiniLM are trained here, below `folder`."""
    model, data = folder / "models" / name, folder / "data" / name
    if name == "minilm":
        return minilm.model_folder(), minilm.write_data(data, 0)
    if name == "whisper":
        listener.write_listener(model)
        return model, listener.write_sounds(data)
    _WRITE[name](model)
    return model, pictures.write_pictures(data, texts=name == "clip")


def export_model(name: str, model: Path, data: Path, folder: Path) -> Path:
    """The artifact of `model` with 8-bit weights and inputs, exported into `folder / name`. With `int8`, which leaves inputs in float,
    ONNX Runtime rounds them to 8 bits of its own accord: labels are the same, but scores are up to 0.05 from torch's."""
    out = folder / "artifacts" / name
    trimodal.compress(str(model), recipe="int8-full", out=str(out), data=str(data))
    trimodal.export(str(out), "onnx", str(folder / name))
    return out


def make_question(name: str, data: Path) -> Mapping[str, Any]:
    """What `name` is asked, and what is `right`. MiniLM also gets sentences of the kind that it was calibrated with, `unseen` by it.
    Pictures have the model's size already: browsers and PIL resize differently."""
    lines = [json.loads(line) for line in (data / "data.jsonl").read_text().splitlines()]
    if name == "minilm":
        unseen = [line["text"] for line in lines if line["split"] == "test"][:UNSEEN]
        return {"sentences": SENTENCES, "unseen": unseen, "right": [i ^ 1 for i in range(len(SENTENCES))]}
    if name == "whisper":
        return {"sounds": [str(data / line["audio"]) for line in lines], "right": [line["text"] for line in lines]}
    names = pictures.CAPTIONS if name == "clip" else pictures.THINGS
    right = [names.index(line["text"]) if name == "clip" else line["label"] for line in lines]
    return {"images": [str(data / line["image"]) for line in lines], "names": names, "right": right}


def ask_torch(name: str, source: Path, question: Mapping[str, Any]) -> Any:
    """What torch answers with the model in `source`, an artifact or a folder of Transformers, in the form that answer.mjs prints."""
    artifact = (source / "trimodal.json").exists()
    module: Any = trimodal.load(str(source)) if artifact else _CLASSES.get(name, hf.AutoModel).from_pretrained(source)
    with torch.inference_mode():
        return _ASK[name](module.eval(), source, question)


def embed_sentences(module: Any, source: Path, sentences: Sequence[str]) -> list[list[float]]:
    """Unit vectors: the mean of the last states over the tokens."""
    words = hf.AutoTokenizer.from_pretrained(source)(list(sentences), padding=True, return_tensors="pt")
    states, mask = module(**words).last_hidden_state, words["attention_mask"][..., None]
    mean = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1).tolist()  # type: ignore[no-any-return]


def _compare_pairs(module: Any, source: Path, question: Mapping[str, Any]) -> Any:
    words = hf.AutoTokenizer.from_pretrained(source)(list(question["names"]), padding=True, return_tensors="pt")
    found = module(**words, pixel_values=_read_images(source, question))
    return (found.image_embeds @ found.text_embeds.T).tolist()


def _classify_images(module: Any, source: Path, question: Mapping[str, Any]) -> Any:
    return module(pixel_values=_read_images(source, question)).logits.softmax(-1).tolist()


def _hear_words(module: Any, source: Path, question: Mapping[str, Any]) -> Any:
    extract, tokenizer = hf.WhisperFeatureExtractor.from_pretrained(source), hf.AutoTokenizer.from_pretrained(source)
    sounds = [_read_sound(Path(path)) for path in question["sounds"]]
    features = extract(sounds, sampling_rate=16000, return_tensors="pt").input_features
    rows = [module.generate(row[None], do_sample=False, **SPOKEN)[0] for row in features]
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]


def _read_images(source: Path, question: Mapping[str, Any]) -> Any:
    processor = hf.AutoImageProcessor.from_pretrained(source, use_fast=False)
    return processor([Image.open(path) for path in question["images"]], return_tensors="pt")["pixel_values"]


def _read_sound(path: Path) -> np.ndarray[Any, Any]:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


_WRITE = {"vit": pictures.write_classifier, "clip": pictures.write_matcher}
_CLASSES = {"vit": hf.ViTForImageClassification, "whisper": hf.WhisperForConditionalGeneration}
_ASK: Mapping[str, Any] = {
    "minilm": lambda module, source, question: embed_sentences(module, source, [*question["sentences"], *question["unseen"]]),
    "clip": _compare_pairs, "vit": _classify_images, "whisper": _hear_words,
}  # fmt: skip

"""The processors of a model that is made from nothing: those of a folder, or made as a configuration says.

    processors: openai/clip-vit-base-patch32
    processors:
      image: {class: ViTImageProcessor, size: {height: 28, width: 28}}
      audio: {class: WhisperFeatureExtractor, feature_size: 40}
      text: {vocabulary: 1000}            a byte-pair tokenizer, trained on the texts of the data; or a folder
      whole: {class: LlavaProcessor, patch_size: 8}      what puts the others together, where the model needs one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers import processors as token_processors

from trimodal.core import Sample
from trimodal.errors import RecipeError, suggest_names
from trimodal.loading.load import locate_source
from trimodal.models.foreign import run_foreign
from trimodal.models.model import Processors
from trimodal.models.processors import find_processors

SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]", "[MASK]")
_LEAST_VOCABULARY = 256 + len(SPECIAL)
_PARTS = ("image", "audio", "text", "whole")
_PLACES = {"image": "image_processor", "audio": "feature_extractor", "text": "tokenizer"}  # in the combined one
_PLACEHOLDERS = ("image_token", "audio_token")


def make_processors(given: str | Mapping[str, Any] | None, samples: Sequence[Sample], name: str) -> tuple[Processors, Path | None]:
    """The processors that are `given`, and the folder that they come from, if they do.

    Raises:
        RecipeError: a part or a class is unknown.
        InputError: they cannot be found or made.
    """
    if isinstance(given, str):
        folder = locate_source(given)
        if not isinstance(folder, Path):
            raise RecipeError(f"{name}: processors is {given!r}, which is a function; expected a folder or a hub id")
        return find_processors(folder), folder
    made: dict[str, Any] = {}
    for part, options in (given or {}).items():
        if part not in _PARTS:
            raise RecipeError(f"{name}: unknown key '{part}' in model.processors; {suggest_names(str(part), _PARTS)}")
        if part != "whole":
            made[part] = _make_tokenizer(options, samples, name) if part == "text" else _make_processor(part, options, name)
    if given and "whole" in given:
        made["whole"] = _make_processor("whole", given["whole"], name, {_PLACES[part]: processor for part, processor in made.items()})
        _add_placeholders_(made["whole"])
    return Processors(**made), None


def _make_processor(part: str, options: Any, name: str, parts: Mapping[str, Any] | None = None) -> Any:
    if not isinstance(options, Mapping) or "class" not in options:
        raise RecipeError(f"{name}: model.processors.{part} names no class; expected such as {{class: ViTImageProcessor, size: 28}}")
    kind = _find_processor_class(str(options["class"]))
    if kind is None:
        raise RecipeError(f"{name}: model.processors.{part} names the class {options['class']!r}, which Transformers has not")
    rest = {str(key): value for key, value in options.items() if key != "class"}
    return run_foreign(f"making the processor {options['class']}", lambda: kind(**(parts or {}), **rest))


def _add_placeholders_(whole: Any) -> None:
    """Let the tokenizer know the tokens in whose place features go, and the processor their numbers."""
    for name in _PLACEHOLDERS:
        token = getattr(whole, name, None)
        if isinstance(token, str) and hasattr(whole, "tokenizer"):
            whole.tokenizer.add_special_tokens({"additional_special_tokens": [token]})
            setattr(whole, f"{name}_id", whole.tokenizer.convert_tokens_to_ids(token))


def describe_placeholder(whole: Any, config_class: Any) -> dict[str, int]:
    """What a configuration must say of the placeholders of the combined processor `whole`, if there is one."""
    attributes = getattr(config_class, "attribute_map", {})
    known = getattr(config_class, "__dataclass_fields__", {})
    found = {f"{name}_id": getattr(whole, f"{name}_id", None) for name in _PLACEHOLDERS}
    return {attributes.get(key, key): value for key, value in found.items() if value is not None and attributes.get(key, key) in known}


def _find_processor_class(name: str) -> Any:
    """The class in Transformers; of an image processor the form that needs no torchvision."""
    if name.endswith("ImageProcessor") and hasattr(transformers, f"{name}Pil"):
        name = f"{name}Pil"
    return getattr(transformers, name, None)


def _make_tokenizer(options: Any, samples: Sequence[Sample], name: str) -> Any:
    if isinstance(options, str):
        folder = locate_source(options)
        return find_processors(folder).text if isinstance(folder, Path) else None
    size = options.get("vocabulary") if isinstance(options, Mapping) and set(options) == {"vocabulary"} else None
    if type(size) is not int or size < _LEAST_VOCABULARY:
        raise RecipeError(
            f"{name}: model.processors.text is {options!r:.60}; expected a folder, or {{vocabulary: N}} with N at least {_LEAST_VOCABULARY}"
        )
    texts = [text for sample in samples for text in (sample.text, sample.target) if text]
    return train_tokenizer(texts, size)


def train_tokenizer(texts: Sequence[str], size: int) -> Any:
    """A byte-pair tokenizer (Sennrich, Haddow, Birch 2016, arXiv 1508.07909) of at most `size` tokens that was trained on `texts`, with
    [BOS] and [EOS] around every text."""
    core = Tokenizer(models.BPE(unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in SPECIAL]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(texts, trainer)
    ends = [(token, core.token_to_id(token)) for token in ("[BOS]", "[EOS]")]
    core.post_processor = token_processors.TemplateProcessing(single="[BOS] $A [EOS]", special_tokens=ends)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]", mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def describe_tokenizer(tokenizer: Any) -> dict[str, int]:
    """What a configuration must say of the tokenizer: its size and the ids of its special tokens."""
    ids = {f"{part}_token_id": getattr(tokenizer, f"{part}_token_id", None) for part in ("pad", "bos", "eos")}
    return {"vocab_size": len(tokenizer), **{name: int(value) for name, value in ids.items() if value is not None}}

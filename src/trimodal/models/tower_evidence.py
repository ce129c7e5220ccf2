"""What tells which modality a part of a model serves: what Transformers states of it, and what it is called.

Statements, strongest first: `input_modalities` and `main_input_name` of the part's own class; the configuration that it was made
from (`vision_config`); what the encoder and the decoder of an encoder-decoder read; the same attributes of the base class of its
family, where the part is of another family than the model around it. The last say of a part of the same family only what they say of
the whole, and Transformers' defaults say no more than that a model with a table of words reads text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from trimodal.core import MODALITIES
from trimodal.errors import ModelError
from trimodal.models.foreign import run_foreign

FUSION = "fusion"
DECODER = "text_decoder"  # where the encoder is `text` already
UNTOLD = "model"  # the tower of what nothing is told of

_BEGINNINGS = {
    "image": ("vision", "visual", "image", "video", "pixel"),
    "audio": ("audio", "speech", "acoustic", "sound", "waveform", "spectrogram", "voice", "vocoder"),
    "text": ("text", "language", "caption"),
}
_WORDS = {
    "image": {"img", "visn", "vit", "resnet", "swin", "dino", "siglip", "convnext"},
    "audio": {"wav", "wave", "mel", "hubert", "asr", "talker"},
    "text": {"txt", "bert", "roberta", "distilbert", "gpt", "llama", "llm"},
}
_CONNECTORS = {
    "projector", "projectors", "merger", "mergers", "qformer", "connector", "resampler", "abstractor", "multimodal", "crossmodal",
}  # fmt: skip
_MEETINGS = {"fusion", "fuse", "fuser", "mm", "aligner", "bridge", "joint"}
_JOINED = re.compile(r"(multi|cross)_modal|q_former|language_projection|enc(oder)?_to_dec(oder)?|mask_decoder|prompt_encoder")
_CONNECTING_CLASS = re.compile(r"(Projector|PatchMerger|Connector|Resampler|MultimodalEmbedder|Abstractor|QFormer(Model)?)$")
_INPUTS = {
    "pixel_values": "image", "pixel_values_videos": "image", "flattened_patches": "image", "input_values": "audio",
    "input_features": "audio", "spectrogram": "audio", "audio_mel": "audio", "input_ids": "text",
}  # fmt: skip


def is_connector(part: nn.Module, name: str) -> bool:
    """Whether a part, by its name or its class, hands what one tower made on to another."""
    return bool(_CONNECTORS.intersection(_split_words(name)) or _JOINED.search(name) or _CONNECTING_CLASS.search(type(part).__name__))


def tower_of_name(name: str) -> str:
    """The tower that a part's own name speaks of, empty if none: `visual`, `text_encoder`; of two it is `fusion`."""
    words = _split_words(name)
    found = [m for m in MODALITIES if any(word.startswith(_BEGINNINGS[m]) or word in _WORDS[m] for word in words)]
    return FUSION if len(found) > 1 or _MEETINGS.intersection(words) else found[0] if found else ""


def tower_of_class(part: PreTrainedModel) -> str:
    """The one modality that the part's own class states, not the base class of its family; empty if it states none or several."""
    for attribute, read in (("input_modalities", _read_modalities), ("main_input_name", _read_input_name)):
        owner = _find_stating_class(part, attribute)
        if owner not in (None, family_base_of(part)):
            return _only_one(read(getattr(part, attribute)))
    return ""


def tower_of_config(part: nn.Module, model: PreTrainedModel | None) -> str:
    """The tower that the part's configuration was made for, by its name in the configuration around it: `vision_config`, `qformer_config`.
    A model that makes codebook entries, inside of another `model`, makes sound."""
    config = vars(part).get("config")
    key = config.base_config_key if isinstance(config, PretrainedConfig) else ""
    words = key.removesuffix("_config") if isinstance(key, str) else ""
    told = FUSION if words and is_connector(part, words) else tower_of_name(words)
    other = isinstance(part, PreTrainedModel) and model is not None and type(config) is not type(model.config)
    return told or ("audio" if other and hasattr(config, "num_codebooks") else "")


def towers_of_pair(model: PreTrainedModel) -> Mapping[int, str]:
    """By the id of the part, the towers of the model's decoder and, in an encoder-decoder, of its encoder: text if they look words up,
    two towers where both do; an encoder that does not, beside a decoder that does, reads the model's main input."""
    decoder, encoder = (_ask_for_part(model, question) for question in ("get_decoder", "get_encoder"))
    found = {id(decoder): "text"} if decoder is not None and _looks_words_up(decoder) else {}
    if encoder is None or not getattr(model.config, "is_encoder_decoder", False) or (decoder is not None and encoder in decoder.modules()):
        return found
    if _looks_words_up(encoder):
        return {**dict.fromkeys(found, DECODER), id(encoder): "text"}
    return {**found, id(encoder): _only_one(_read_input_name(model.main_input_name))} if found else {}


def tower_of_model(model: nn.Module) -> str:
    """Where that belongs of a whole model of which nothing else is told: the one modality that it reads; where it reads several,
    `text` in one that writes text and `fusion` in others. In a module that is no model of Transformers it is `model`."""
    if not isinstance(model, PreTrainedModel):
        return UNTOLD
    stated = _read_modalities(model.input_modalities) if _find_stating_class(model, "input_modalities") else ()
    stated = stated or (() if _find_stating_class(model, "main_input_name") is None else _read_input_name(model.main_input_name))
    if len(stated) > 1:
        return "text" if type(model).can_generate() else FUSION
    default = "audio" if hasattr(model.config, "num_codebooks") else UNTOLD
    reads_words = _read_input_name(model.main_input_name) == ("text",) and (_looks_words_up(model) or hasattr(model.config, "vocab_size"))
    return _only_one(stated) or ("text" if reads_words and default == UNTOLD else default)


def tower_of_family_input(model: PreTrainedModel) -> str:
    """What is stated to be the main input of a model whose family, but not its own class, states several modalities; empty for others."""
    stated = _find_stating_class(model, "input_modalities") is family_base_of(model) and _find_stating_class(model, "main_input_name")
    return _only_one(_read_input_name(model.main_input_name)) if stated else ""


def list_several_inputs(model: PreTrainedModel) -> tuple[str, ...]:
    """The modalities that it states, if there are several."""
    stated = _read_modalities(model.input_modalities) if _find_stating_class(model, "input_modalities") else ()
    return stated if len(stated) > 1 else ()


def find_output_layer(model: PreTrainedModel) -> nn.Module | None:
    """The layer that gives scores of words, if the model has one."""
    return _ask(model, "get_output_embeddings")


def family_base_of(model: PreTrainedModel) -> type:
    """The class that all classes of its family come from, such as `CLIPPreTrainedModel`."""
    return [kind for kind in type(model).__mro__ if issubclass(kind, PreTrainedModel) and kind is not PreTrainedModel][-1]


def _split_words(name: str) -> list[str]:
    """`visionEncoder_2` as `vision`, `encoder`."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def _find_stating_class(part: PreTrainedModel, attribute: str) -> type | None:
    """The class that says it, None if it is Transformers' default."""
    own = (kind for kind in type(part).__mro__ if issubclass(kind, PreTrainedModel) and kind is not PreTrainedModel)
    return next((kind for kind in own if attribute in vars(kind)), None)


def _read_modalities(told: Any) -> tuple[str, ...]:
    """Those that there are here, as images and videos are one."""
    names = [told] if isinstance(told, str) else told if isinstance(told, list | tuple) else ()
    return tuple(m for m in MODALITIES if m in names or (m == "image" and "video" in names))


def _read_input_name(told: Any) -> tuple[str, ...]:
    return (_INPUTS[told],) if isinstance(told, str) and told in _INPUTS else ()


def _only_one(modalities: tuple[str, ...]) -> str:
    return modalities[0] if len(modalities) == 1 else ""


def _looks_words_up(model: nn.Module) -> bool:
    """Whether its input layer is a table, also one that was taken apart into factors."""
    table = _ask(model, "get_input_embeddings")
    return isinstance(table, nn.Embedding) or isinstance(getattr(table, "first", None), nn.Embedding)


def _ask_for_part(model: PreTrainedModel, question: str) -> nn.Module | None:
    """As `_ask`; a model that has no such part answers with itself."""
    part = _ask(model, question)
    return None if part is None or part in (model, model.base_model) else part


def _ask(model: nn.Module, question: str) -> nn.Module | None:
    """What a method without arguments answers, if it is a module: many raise where there is nothing."""
    with suppress(ModelError):
        answer = run_foreign(f"{type(model).__name__}.{question}", lambda: getattr(model, question)())
        return answer if isinstance(answer, nn.Module) else None
    return None

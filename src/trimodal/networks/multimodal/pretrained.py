"""Towers out of folders that users bring: which modality each reads, its encoder, its configuration and its processors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from trimodal.networks import fusion
from trimodal.networks.multimodal.configuration import STREAM_KINDS, MultimodalConfig
from trimodal.networks.multimodal.towers import take_encoder

_LOADERS = {"image": "AutoImageProcessor", "audio": "AutoFeatureExtractor", "text": "AutoTokenizer"}
_INPUTS = {"pixel_values": "image", "input_features": "audio", "input_values": "audio", "input_ids": "text"}


def sort_arguments(given: Mapping[str, Any], frozen: bool) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Of what `from_towers` is given: loaded encoders by stream, the streams of the configuration, and its other fields.

    Raises:
        ValueError: something is neither a folder, nor a model, nor a mapping, nor a field of the configuration.
    """
    known = {field.name for field in fields(MultimodalConfig)} | {"num_labels"}
    encoders: dict[str, Any] = {}
    streams: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if name in known:
            settings[name] = value
        elif isinstance(value, Mapping):
            streams[name] = dict(value)
        elif isinstance(value, str | Path | PreTrainedModel):
            model = value if isinstance(value, PreTrainedModel) else transformers.AutoModel.from_pretrained(value)
            modality = name if name in STREAM_KINDS else find_one_modality(model, name)
            encoders[name] = take_encoder(model, modality)
            streams[name] = {"modality": modality, "tower": find_tower_config(model, encoders[name]).to_dict(), "frozen": frozen}
        else:
            raise ValueError(f"{name} is {value!r:.60}; expected a folder, a Transformers model, a mapping for a stream, or a setting")
    return encoders, streams, settings


def find_one_modality(model: PreTrainedModel, name: str) -> str:
    """What a model reads.

    Raises:
        ValueError: its class does not say one modality.
    """
    found = _INPUTS.get(str(getattr(model, "main_input_name", "")), "")
    if not found or hasattr(model, "vision_model"):
        raise ValueError(f"{name} is a {type(model).__name__}, which reads no one modality; call the stream image, audio or text")
    return found


def find_tower_config(model: PreTrainedModel, encoder: PreTrainedModel) -> PreTrainedConfig:
    """The configuration from which `take_encoder` makes the same encoder again: its own where AutoModel knows that, else of the whole."""
    whole: PreTrainedConfig = model.config
    known = type(encoder.config) in transformers.MODEL_MAPPING and encoder.config.model_type != whole.model_type
    return encoder.config if known else whole


def save_processors(folder: str | Path, image: Any = None, audio: Any = None, text: Any = None) -> None:
    """Save to `folder` what turns images, sounds and words into the inputs of the streams of these names: folders of pretrained models, or
    loaded processors. With it the folder takes samples as data."""
    given = {"image": image, "audio": audio, "text": text}
    loads = {name: getattr(transformers, _LOADERS[name]).from_pretrained for name in given}
    found = {name: loads[name](one) if isinstance(one, str | Path) else one for name, one in given.items()}
    if found["image"] is not None and found["audio"] is not None:  # in one file, for theirs have one name
        fusion.FusionProcessor(found["image"], found["audio"], found["text"]).save_pretrained(folder)
        return
    for one in found.values():
        if one is not None:
            one.save_pretrained(folder)

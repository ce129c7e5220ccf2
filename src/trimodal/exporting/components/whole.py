"""A model that becomes one file: its own forward."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor

from trimodal.errors import ModelError
from trimodal.exporting.component import Component, call_forward
from trimodal.models.model import Model

SAMPLES, TOKENS = 2, 7
"""Lengths that tracing is done with: unlike each other, and more than one, which tracing would take for fixed."""
_WITHOUT_MASK = ("siglip",)  # trained on texts that are all of full length
_LENGTHS = {"wav2vec2": {"input_values": {0: "batch_size", 1: "sequence_length"}}}  # waveforms, which others take as spectrograms
_TEXT = ("input_ids", "attention_mask", "token_type_ids")


def take_whole(model: Model) -> tuple[Component, ...]:
    """One component with everything that the forward takes and returns.

    Raises:
        ModelError: the model has no example of its inputs.
    """
    inputs = make_trace_inputs(model)
    with torch.no_grad():
        outputs = tuple(call_forward(model.module, inputs))
    return (Component("model", model.module, inputs, call_forward, outputs, _LENGTHS.get(model.family.name, {})),)


def make_trace_inputs(model: Model) -> dict[str, Tensor]:
    """The family's example with two samples, (2, …) each, and texts (2, 7) of seven tokens.

    Raises:
        ModelError: the model has no example.
    """
    example = model.example()
    if not example:
        raise ModelError(
            f"nobody can say what {type(model.module).__name__} takes; give its class a method `example` that returns "
            "the keyword arguments of its forward for one sample"
        )
    stretched = {name: stretch_example(name, value) for name, value in example.items()}
    return {**stretched, **_make_text_companions(model, stretched), **_make_sound_masks(model, stretched)}


def _make_text_companions(model: Model, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the tokenizer gives with the ids and the forward takes: a mask of what is text, and which text a token is of."""
    ids = inputs.get("input_ids")
    if ids is None or model.family.name in _WITHOUT_MASK:
        return {}
    taken = inspect.signature(model.module.forward).parameters
    given = getattr(model.processors.text, "model_input_names", ())
    made: dict[str, Tensor] = {}
    if "attention_mask" in taken and "attention_mask" not in inputs:
        made["attention_mask"] = torch.ones_like(ids)
    if "token_type_ids" in taken and "token_type_ids" in given:
        made["token_type_ids"] = torch.zeros_like(ids)
    return made


def _make_sound_masks(model: Model, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mask of what is sound, where the forward takes one and the processor gives it: for clips of unequal length."""
    taken = inspect.signature(model.module.forward).parameters
    made: dict[str, Tensor] = {}
    if "audio_mask" in taken and "input_features" in inputs:
        features = inputs["input_features"]
        made["audio_mask"] = torch.ones(len(features), features.shape[-1], dtype=torch.long)
    given = getattr(model.processors.audio, "return_attention_mask", False) if "input_values" in inputs else False
    if given and "attention_mask" in taken and "input_ids" not in inputs:
        made["attention_mask"] = torch.ones_like(inputs["input_values"], dtype=torch.long)
    return made


def stretch_example(name: str, value: Tensor) -> Tensor:
    """One sample (1, …) as two of them (2, …); of a text the first seven tokens."""
    cut = value[:, :TOKENS] if name in _TEXT else value
    return torch.cat([cut] * SAMPLES).contiguous()

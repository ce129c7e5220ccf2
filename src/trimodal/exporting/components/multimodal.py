"""A model of any streams as one file: besides each stream's input its mask, and which samples have it, so that streams can be missing when
the file runs: give anything of the right shape, and zeros for `NAME_present`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.exporting.component import Component, collect_outputs
from trimodal.exporting.components.whole import TOKENS, stretch_example
from trimodal.models.model import Model
from trimodal.networks.multimodal import Stream


def take_streams(model: Model) -> tuple[Component, ...]:
    """One component with all streams. Texts have any length, sounds and signals that of their stream, which masks shorten."""
    module: Any = model.module
    example, inputs, dynamic = model.example(), dict[str, Tensor](), dict[str, Mapping[int, str]]()
    for stream in module.by_name.values():
        inputs |= _make_stream_inputs(stream, example[stream.input_name])
        if stream.modality == "text":
            length = "sequence_length" if stream.name == "text" else f"{stream.name}_length"
            dynamic |= {key: {0: "batch_size", 1: length} for key in (stream.input_name, stream.mask_name)}
    with torch.no_grad():
        outputs = tuple(call_without_loss(module, inputs))
    return (Component("model", module, inputs, call_without_loss, outputs, dynamic),)


def call_without_loss(module: nn.Module, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The forward, without a loss that rows of a batch would have by each other: inputs (batch, …) -> outputs (batch, …) by name."""
    return collect_outputs(module(**inputs, return_loss=False))


def _make_stream_inputs(stream: Stream, example: Tensor) -> dict[str, Tensor]:
    """Two samples of one stream (2, …), with their mask where it is no image, and that they are there (2,)."""
    value = stretch_example(stream.input_name, example)
    value = value[:, :TOKENS].contiguous() if stream.modality == "text" else value
    made = {stream.input_name: value}
    if stream.modality != "image":
        frames = value.shape[-1] if stream.modality == "audio" else value.shape[1]
        made[stream.mask_name] = torch.ones(len(value), frames, dtype=torch.long)
    return {**made, stream.present_name: torch.ones(len(value), dtype=torch.long)}

"""CLIP, SigLIP and CLAP: a file per tower, which is how they are used; a score is the product of both embeddings.

The names are those of Transformers' `CLIPTextModelWithProjection` and its kin: `text_embeds`, `image_embeds`, `audio_embeds`, not
normalised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trimodal.exporting.component import Call, Component
from trimodal.exporting.components.whole import make_trace_inputs, take_whole
from trimodal.models.model import Model

_FILES = {"text": "text_model", "image": "vision_model", "audio": "audio_model"}
_TAKES = {
    "text": ("input_ids", "attention_mask"), "image": ("pixel_values",), "audio": ("input_features", "is_longer"),
}  # fmt: skip


def split_dual_encoder(model: Model) -> Sequence[Component]:
    """A component per tower; the whole where the class holds one tower only.

    Raises:
        ModelError: the model has no example of its inputs.
    """
    towers = [m for m in ("text", "image", "audio") if m in model.modalities]
    if len(towers) < 2:
        return take_whole(model)
    inputs = make_trace_inputs(model)
    return [_take_tower(model, modality, inputs) for modality in towers]


def _take_tower(model: Model, modality: str, inputs: Mapping[str, Tensor]) -> Component:
    taken = {name: inputs[name] for name in _TAKES[modality] if name in inputs}
    siglip = model.family.name == "siglip"
    output = "pooler_output" if siglip else f"{modality}_embeds"
    return Component(_FILES[modality], model.module, taken, _make_call(modality, output), (output,))


def _make_call(modality: str, output: str) -> Call:
    def call(module: nn.Module, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        found: Any = getattr(module, f"get_{modality}_features")(**inputs)
        return {output: found if isinstance(found, Tensor) else found.pooler_output}

    return call

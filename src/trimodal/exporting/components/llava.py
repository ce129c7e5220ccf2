"""LLaVA: what sees, what embeds words, and the decoder that takes both, as Transformers.js has them.

    vision_encoder         pixel_values → image_features (images, patches, width), the projector included
    embed_tokens           input_ids → inputs_embeds
    decoder_model_merged   inputs_embeds, attention_mask, position_ids, past_key_values.N.key, .value → logits, present.N.key, .value

Who calls them puts the image's features in the place of its placeholder tokens. Where word embedding and head are one weight, both
files need it: that is the one thing that is stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.exporting.component import Component
from trimodal.exporting.components.decoder import take_decoder
from trimodal.exporting.components.whole import TOKENS, make_trace_inputs, take_whole
from trimodal.models.model import Model


def split_llava(model: Model) -> Sequence[Component]:
    """The three parts; the whole as it is where the class does not speak.

    Raises:
        ModelError: the model has no example of its inputs.
    """
    if not hasattr(model.module, "lm_head"):
        return take_whole(model)
    inputs = make_trace_inputs(model)
    pixels = {"pixel_values": inputs["pixel_values"]}
    ids = torch.ones_like(inputs["input_ids"][:, :TOKENS])  # words, for the example begins with the image's placeholders
    with torch.no_grad():
        embedded = _embed(model.module, {"input_ids": ids})["inputs_embeds"]
    return [
        Component("vision_encoder", model.module, pixels, _see, ("image_features",)),
        Component("embed_tokens", model.module, {"input_ids": ids}, _embed, ("inputs_embeds",)),
        take_decoder("decoder_model_merged", model.module, ids, embedded),
    ]


def _see(module: nn.Module, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What the projector gives: the model's own method returns it as a list with an entry per image, whose length is then fixed."""
    given: list[Tensor] = []
    seeing: Any = module
    watch = module.get_submodule("model.multi_modal_projector").register_forward_hook(lambda _, taken, found: given.append(found))
    try:
        seeing.get_image_features(**inputs, return_dict=True)
    finally:
        watch.remove()
    return {"image_features": given[0]}


def _embed(module: nn.Module, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    speaking: Any = module
    return {"inputs_embeds": speaking.get_input_embeddings()(inputs["input_ids"])}

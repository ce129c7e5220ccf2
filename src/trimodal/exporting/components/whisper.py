"""Whisper: the encoder, and one decoder for the first step and all others.

    encoder_model          input_features → last_hidden_state
    decoder_model_merged   input_ids, encoder_hidden_states, past_key_values.N.{decoder,encoder}.{key,value}, use_cache_branch
                           → logits, present.N.{decoder,encoder}.{key,value}

Elsewhere a merged decoder is an `If` over two graphs, which hides products from the runtime's optimiser or keeps weights twice.
Here it is one graph: where `use_cache_branch` is true, the encoder's states are taken to have no tokens, so that their keys and
values cost nothing, and cross-attention looks at those of the past and at new ones, of which one part is always empty.
`present.N.encoder` is what this call computed, so it is empty after the first; callers keep the first one, as they do elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from trimodal.exporting.component import Call, Component
from trimodal.exporting.components.kept_states import (
    PAST,
    PRESENT,
    GivenLayer,
    list_state_names,
    make_past,
    name_past_lengths,
    name_states,
    read_cache,
    read_present,
)
from trimodal.exporting.components.whole import TOKENS, make_trace_inputs, take_whole
from trimodal.exporting.plain_attention import InParts, use_plain_attention_
from trimodal.models.model import Model

_PARTS = ("decoder", "encoder")
_STATES, _SWITCH = "encoder_hidden_states", "use_cache_branch"
_HEARD = "encoder_sequence_length"


def split_whisper(model: Model) -> Sequence[Component]:
    """Encoder and decoder; the whole as it is where the class does not speak.

    Raises:
        ModelError: the model has no example of its inputs.
    """
    if not hasattr(model.module, "proj_out"):
        return take_whole(model)
    use_plain_attention_(model.module)  # which attends to what was heard in two parts
    inputs = make_trace_inputs(model)
    sound = {"input_features": inputs["input_features"]}
    encoder = Component("encoder_model", model.module, sound, _encode, ("last_hidden_state",))
    return [encoder, _take_decoder(model.module, inputs)]


def _encode(module: nn.Module, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    encoder: Any = module.get_submodule("model.encoder")
    return {"last_hidden_state": encoder(**inputs).last_hidden_state}


def _take_decoder(module: nn.Module, inputs: Mapping[str, Tensor]) -> Component:
    positions: Any = module.get_submodule("model.decoder.embed_positions")
    positions.forward = partial(_look_up_positions, positions)  # its own one indexes, which is no lookup to a runtime
    ids = inputs["decoder_input_ids"][:, :TOKENS].contiguous()
    with torch.no_grad():
        states = _encode(module, {"input_features": inputs["input_features"]})["last_hidden_state"]
        cache: Any = module(encoder_outputs=BaseModelOutput(states), decoder_input_ids=ids, use_cache=True).past_key_values
    layers = len(cache.self_attention_cache.layers)
    said = make_past(cache.self_attention_cache, layers, "decoder")
    heard = make_past(cache.cross_attention_cache, layers, "encoder")
    past = {name: {**said, **heard}[name] for name in list_state_names(PAST, layers, _PARTS)}
    lengths = {**name_past_lengths(list(said), "past_decoder_sequence_length"), **name_past_lengths(list(heard), "past_" + _HEARD)}
    return Component(
        "decoder_model_merged", module, {"input_ids": ids, _STATES: states[:, :11].contiguous(), **past}, _make_call(layers),
        ("logits", *list_state_names(PRESENT, layers, _PARTS)), {**lengths, _STATES: {0: "batch_size", 1: _HEARD}},
        switches={_SWITCH: _STATES},
    )  # fmt: skip


def _look_up_positions(table: nn.Embedding, ids: Tensor, past_key_values_length: int = 0, position_ids: Tensor | None = None) -> Tensor:
    """The vectors (batch, new, width) of `position_ids` int64 (batch, new)."""
    assert position_ids is not None
    return nn.functional.embedding(position_ids, table.weight)


def _make_call(layers: int) -> Call:
    def call(module: nn.Module, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        said = read_cache(inputs, layers, "decoder")
        heard = DynamicCache()
        heard.layers = [_HeardLayer(*(inputs[name] for name in name_states(PAST, number, "encoder"))) for number in range(layers)]
        cache = EncoderDecoderCache(said, heard)
        cache.is_updated = dict.fromkeys(range(layers), False)
        decoder: Any = module.get_submodule("model.decoder")
        found = decoder(
            input_ids=inputs["input_ids"], encoder_hidden_states=inputs[_STATES], past_key_values=cache, use_cache=True
        ).last_hidden_state  # fmt: skip
        logits: Tensor = module.get_submodule("proj_out")(found)
        return {"logits": logits, **read_present(said, layers, "decoder"), **read_present(heard, layers, "encoder")}

    return call


class _HeardLayer(GivenLayer):
    """Keys and values of what was heard: the past ones, and those that this call computes, left in two parts."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Keys and values (batch, heads, heard, width) as `InParts`; the new ones are what stays."""
        parts = InParts(self.keys, key_states), InParts(self.values, value_states)
        self.keys, self.values = key_states, value_states
        return parts

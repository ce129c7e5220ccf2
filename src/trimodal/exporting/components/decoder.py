"""Llama and the decoders built like it: one file that takes new tokens and the states of earlier ones.

    input_ids (batch, new), attention_mask (batch, past + new), position_ids (batch, new), past_key_values.N.key, .value
        → logits (batch, new, vocabulary), present.N.key, .value

which is what Optimum calls text-generation-with-past, and what `decoder_model_merged` was before one graph could do both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trimodal.exporting.component import Call, Component
from trimodal.exporting.components.kept_states import (
    PAST,
    PAST_TOKENS,
    PRESENT,
    list_state_names,
    make_past,
    name_past_lengths,
    read_cache,
    read_present,
)
from trimodal.exporting.components.whole import make_trace_inputs, take_whole
from trimodal.models.model import Model

WHOLE_TEXT = "past_sequence_length + sequence_length"


def split_decoder(model: Model) -> Sequence[Component]:
    """The decoder with its states; the whole as it is where the class does not speak (embeddings, classes).

    Raises:
        ModelError: the model has no example of its inputs.
    """
    if not hasattr(model.module, "lm_head"):
        return take_whole(model)
    return [take_decoder("model", model.module, make_trace_inputs(model)["input_ids"])]


def take_decoder(name: str, module: nn.Module, ids: Tensor, embedded: Tensor | None = None) -> Component:
    """A decoder of new tokens `ids` int64 (batch, new), or of their `embedded` vectors (batch, new, width)."""
    with torch.no_grad():
        cache = module(input_ids=ids, use_cache=True).past_key_values
    layers = len(cache.layers)
    first = {"input_ids": ids} if embedded is None else {"inputs_embeds": embedded}
    inputs = {**first, **make_text_inputs(ids), **make_past(cache, layers)}
    past = list_state_names(PAST, layers)
    return Component(
        name, module, inputs, _make_call(layers, next(iter(first))), ("logits", *list_state_names(PRESENT, layers)),
        {"attention_mask": {0: "batch_size", 1: WHOLE_TEXT}, **name_past_lengths(past)},
    )  # fmt: skip


def make_text_inputs(ids: Tensor) -> dict[str, Tensor]:
    """For new tokens (batch, new) after a past of five: `attention_mask` (batch, 5 + new) and `position_ids` (batch, new), int64."""
    batch, new = ids.shape
    positions = torch.arange(PAST_TOKENS, PAST_TOKENS + new).expand(batch, new).contiguous()
    return {"attention_mask": torch.ones(batch, PAST_TOKENS + new, dtype=torch.long), "position_ids": positions}


def _make_call(layers: int, first: str) -> Call:
    def call(module: nn.Module, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        cache = read_cache(inputs, layers)
        taken = {name: inputs[name] for name in (first, "attention_mask", "position_ids")}
        logits: Tensor = module(**taken, past_key_values=cache, use_cache=True).logits
        return {"logits": logits, **read_present(cache, layers)}

    return call

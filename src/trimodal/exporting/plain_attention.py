"""Attention as runtimes fuse it: two products, one softmax, and a plain additive mask.

What Transformers traces by default has IsNaN and Where around the softmax, or a mask gathered element by element; both keep
OpenVINO and ONNX Runtime from seeing one attention. `use_plain_attention_` has every layer of a model call this one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

NAME = "trimodal_plain"
HIDDEN = -10000.0
"""What is added to the score of a token that must not be seen: its weight is 0 in float32. The least float32, which Transformers adds, is
multiplied out by OpenVINO where a product follows, and what is left of the difference of two such numbers is 1e29."""


def use_plain_attention_(module: nn.Module) -> None:
    """Let every Transformers model in `module` compute attention in the plain way, as far as its class lets one choose."""
    AttentionInterface.register(NAME, attend_plainly)
    AttentionMaskInterface.register(NAME, make_additive_mask)
    for model in _find_choosing_models(module):
        model.set_attn_implementation(NAME)


def _find_choosing_models(module: nn.Module) -> list[PreTrainedModel]:
    """The outermost models in which every class lets one choose its attention: of the others Transformers would say that they do not."""
    if isinstance(module, PreTrainedModel):
        inner = [model for model in module.modules() if isinstance(model, PreTrainedModel)]
        if all(model._can_set_attn_implementation() for model in inner):
            return [module]
    return [model for child in module.children() for model in _find_choosing_models(child)]


class InParts(NamedTuple):
    """Keys, or values, of tokens in two parts, (batch, heads, tokens, width) each, either of which may have none: attended to as if
    they were one, and never copied into one."""

    past: Tensor
    new: Tensor


def attend_plainly(
    module: nn.Module, query: Tensor, key: Tensor | InParts, value: Tensor | InParts, attention_mask: Tensor | None = None,
    scaling: float | None = None, dropout: float = 0.0, **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """softmax(q kᵀ · scaling + mask) v: (batch, heads, T, width) each, keys and values with as many heads or a divisor of them ->
    (batch, T, heads, width)."""
    if isinstance(key, InParts) and isinstance(value, InParts):
        return _attend_to_parts(query * (scaling or query.shape[-1] ** -0.5), key, value), None
    assert isinstance(key, Tensor) and isinstance(value, Tensor)
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    times = query.shape[1] // key.shape[1]
    if times > 1:
        return _attend_in_groups(query, key, value, attention_mask, times), None
    scores = torch.matmul(query, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    return torch.matmul(torch.softmax(scores, dim=-1), value).transpose(1, 2), None


def _attend_in_groups(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, times: int) -> Tensor:
    """As above, with `times` heads of queries (batch, heads, T, width) to each of keys and values, which are not copied: the queries
    of a group stand below each other instead."""
    batch, heads, tokens, width = query.shape
    scores = torch.matmul(query.reshape(batch, heads // times, times * tokens, width), key.transpose(2, 3))
    if mask is not None:
        scores = scores + mask.repeat(1, 1, times, 1)
    return torch.matmul(torch.softmax(scores, dim=-1), value).reshape(batch, heads, tokens, width).transpose(1, 2)


def _attend_to_parts(query: Tensor, key: InParts, value: InParts) -> Tensor:
    """As above, without a mask, over both parts: their scores are short and are what is joined."""
    scores = torch.cat([torch.matmul(query, part.transpose(2, 3)) for part in key], dim=-1)
    past, new = torch.softmax(scores, dim=-1).tensor_split([key.past.shape[2]], dim=-1)
    return (torch.matmul(past, value.past) + torch.matmul(new, value.new)).transpose(1, 2)


def make_additive_mask(
    *, q_length: int, kv_length: int, q_offset: Any = 0, kv_offset: Any = 0, mask_function: Any = None,
    attention_mask: Tensor | None = None, dtype: torch.dtype = torch.float32, allow_is_bidirectional_skip: bool = False, **options: Any,
) -> Tensor | None:  # fmt: skip
    """0 where a token may be looked at and `HIDDEN` where not: (batch, 1, 1, keys) where padding is all there is to hide,
    else (batch, 1, queries, keys); None where nothing is."""
    if mask_function is bidirectional_mask_function:
        if attention_mask is None:
            return None
        return torch.where(attention_mask[:, None, None, -kv_length:].bool(), torch.zeros((), dtype=dtype), HIDDEN)
    options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    allowed = sdpa_mask(
        q_length=q_length, kv_length=kv_length, q_offset=q_offset, kv_offset=kv_offset, mask_function=mask_function, **options,
    )  # fmt: skip
    if allowed is not None and attention_mask is not None:  # here, since the function above would gather it element by element
        allowed = allowed & attention_mask[:, None, None, -kv_length:].bool()
    return None if allowed is None else torch.where(allowed, torch.zeros((), dtype=dtype), HIDDEN)

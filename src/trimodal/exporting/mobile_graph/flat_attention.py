"""Attention with batch and heads in one dimension: what compilers for phones take as it is, without copies that widen a tensor by 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from trimodal.exporting.plain_attention import make_additive_mask

NAME = "trimodal_flat"


def use_flat_attention_(module: nn.Module) -> None:
    """Let every Transformers model in `module` compute attention so, as far as its class lets one choose."""
    AttentionInterface.register(NAME, attend_flat)
    AttentionMaskInterface.register(NAME, make_additive_mask)
    if isinstance(module, PreTrainedModel):
        module.set_attn_implementation(NAME)


def attend_flat(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None,
    scaling: float | None = None, dropout: float = 0.0, **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """softmax(q kᵀ · scaling + mask) v: (batch, heads, T, width) each, keys and values with as many heads or a divisor of them ->
    (batch, T, heads, width)."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    times = query.shape[1] // key.shape[1]
    if times > 1:
        key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
    scores = torch.bmm(query.flatten(0, 1) * scaling, key.flatten(0, 1).transpose(1, 2))
    if attention_mask is not None:
        one = attention_mask.shape[:2] == (1, 1)  # the shape that is written: no copy for each head
        mask = attention_mask if one else attention_mask.expand(*query.shape[:2], -1, -1)
        scores = scores + mask.flatten(0, 1)
    found = torch.bmm(torch.softmax(scores, dim=-1), value.flatten(0, 1))
    return found.unflatten(0, (len(query), -1)).transpose(1, 2), None

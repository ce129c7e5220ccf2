"""One vector per sample, where a model gives one per token."""

from __future__ import annotations

import torch
from torch import Tensor

from trimodal.models.model import Output


def pool_embedding(output: Output, value: Tensor, mask: Tensor | None) -> Tensor:
    """One vector per sample, (batch, width), from an embedding that may still have a token dimension."""
    if output.pool == "first":
        return value[:, 0]
    if output.pool == "":
        return value.flatten(1)
    if mask is None:
        return value.mean(dim=1)
    weights = resize_mask(mask, value.shape[1]).to(value.dtype).unsqueeze(-1)  # (batch, tokens, 1)
    return (value * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def resize_mask(mask: Tensor, tokens: int) -> Tensor:
    """`mask` (batch, positions) at another length (batch, tokens): an audio encoder has fewer frames than its input."""
    if mask.shape[1] == tokens:
        return mask
    positions = torch.arange(tokens, device=mask.device) * mask.shape[1] // tokens
    return mask[:, positions]

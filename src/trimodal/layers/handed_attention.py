"""An attention of Transformers that hands its weights to one function of PyTorch, opened up so that its layers are called.

WavLM's attention has query, key, value and output as linear layers and calls none of them: `multi_head_attention_forward` reads their
weights. Nobody can then see their input, and a weight that is kept in another form is decoded for every call. Opened, the same sums are
made by the layers themselves, in the same order. Names and tensors stay, so closing only gives the class back.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimodal.layers.opened import OpenedLayer, copy_state

_METHOD = "torch_multi_head_self_attention"  # what is replaced; the gates and the positions are the class's own
_PARTS = ("q_proj", "k_proj", "v_proj", "out_proj")


def can_open_handed_attention(part: nn.Module) -> bool:
    """Whether `part` is an attention of that kind."""
    kind = type(part)
    ours = kind.__module__.startswith("transformers.") and kind.__name__.endswith("Attention") and hasattr(kind, _METHOD)
    return ours and not isinstance(part, OpenedLayer) and all(isinstance(part._modules.get(name), nn.Linear) for name in _PARTS)


def open_handed_attention(part: nn.Module) -> nn.Module:
    """The attention with the same parts, in a class in which they are called."""
    kind: Any = type(part)
    return _take_state(part, _derive_class(kind))


class OpenedHandedAttention(OpenedLayer):
    """What such an attention computes, through its four linear layers."""

    def close(self) -> nn.Module | None:
        """An attention of the original class with this one's parts; None where one of them is not plain."""
        plain = all(type(part) in (nn.Linear, nn.Embedding) and "weight" in part._parameters for part in self.children())
        return _take_state(self, type(self).__bases__[1]) if plain else None

    def close_tensors(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors, which have the same names there."""
        return dict(own)

    def torch_multi_head_self_attention(
        self, hidden_states: Tensor, attention_mask: Tensor | None, gated_position_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States (batch, frames, width), mask (batch, frames) of ones and zeros, positions (batch · heads, frames, frames) -> what is
        attended to (batch, frames, width), and the mean weights (batch, heads, frames, frames)."""
        here: Any = self
        batch, frames, _ = hidden_states.shape
        heads = int(here.num_heads)
        query, key, value = (
            here._modules[name](hidden_states).unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1) for name in _PARTS[:3]
        )
        positions = gated_position_bias
        if attention_mask is not None:
            hidden = attention_mask.ne(1).view(batch, 1, 1, frames).expand(-1, heads, frames, -1).reshape(positions.shape)
            positions = positions.masked_fill(hidden, -torch.inf)
        scaled = query * (1.0 / float(query.shape[-1])) ** 0.5
        weights = functional.softmax(torch.baddbmm(positions, scaled, key.transpose(-2, -1)), dim=-1)
        weights = functional.dropout(weights, here.dropout, self.training)
        seen = torch.bmm(weights, value).unflatten(0, (batch, heads)).transpose(1, 2).flatten(2)
        mean = weights.unflatten(0, (batch, heads)).mean(dim=1)
        return here.out_proj(seen), mean[:, None].expand(-1, heads, -1, -1)


@cache
def _derive_class(kind: Any) -> type[nn.Module]:
    """The class for attentions of the class `kind`, the same for all of them."""
    return type(f"Opened{kind.__name__}", (OpenedHandedAttention, kind), {})


def _take_state(part: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A module of the class `kind` with all that `part` has."""
    made = kind.__new__(kind)
    vars(made).update(copy_state(part))
    return made

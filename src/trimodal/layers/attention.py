"""`nn.MultiheadAttention` opened up, so that query, key, value and output are linear layers that are called.

PyTorch's own keeps the first three in one parameter (`in_proj_weight`, or three where keys and values have widths of their own), and uses
the output's weight without calling that layer. Opened, the parts are `q_proj`, `k_proj`, `v_proj` and `out_proj`; arguments, masks and
results are those of `nn.MultiheadAttention`, batched or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimodal.layers.opened import OpenedLayer

_PARTS = ("q_proj", "k_proj", "v_proj")


class OpenedAttention(OpenedLayer, nn.MultiheadAttention):
    """What an `nn.MultiheadAttention` computes, through four linear layers."""

    def __init__(self, old: nn.MultiheadAttention) -> None:
        nn.Module.__init__(self)
        self.was_fused = old._qkv_same_embed_dim
        plain = {name: value for name, value in vars(old).items() if not name.startswith("_") and name != "training"}
        for name, value in plain.items():
            setattr(self, name, value)
        self._qkv_same_embed_dim = False  # or PyTorch's layers around it would take the weights and never call it
        weights: Any = old.in_proj_weight.chunk(3) if self.was_fused else [getattr(old, f"{name}_weight") for name in _PARTS]
        biases: Any = [None] * 3 if old.in_proj_bias is None else old.in_proj_bias.chunk(3)
        trained = next(p.requires_grad for p in (old.in_proj_weight, old.q_proj_weight) if p is not None)
        for name, weight, bias in zip(_PARTS, weights, biases, strict=True):
            setattr(self, name, _make_linear(weight, bias, trained))
        self.out_proj = old.out_proj
        self.bias_k, self.bias_v = old.bias_k, old.bias_v
        self.train(old.training)

    @property
    def in_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        """Weights of query, key and value, one below the other, (3 · width, width); None where these have widths of their own."""
        weights = [part.weight for part in self._parts()]
        return torch.cat(weights) if self.was_fused else None

    @property
    def in_proj_bias(self) -> Tensor | None:  # type: ignore[override]
        """Biases of query, key and value, one after the other, (3 · width,)."""
        biases = [part.bias for part in self._parts()]
        return None if biases[0] is None else torch.cat(biases)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, need_weights: bool = True,
        attn_mask: Tensor | None = None, average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """(batch, tokens, width) each, or as `batch_first` says, or without a batch -> what is attended to, and with `need_weights` the
        weights (batch, tokens, keys)."""
        batched, turned = query.dim() == 3, query.dim() == 3 and not self.batch_first
        given = {id(x): x.transpose(0, 1) if turned else x if batched else x.unsqueeze(0) for x in (query, key, value)}
        q, k, v = (part(given[id(x)]) for part, x in zip(self._parts(), (query, key, value), strict=True))
        mask = self._join_masks(attn_mask, key_padding_mask, q)
        k, v = self._append_extra(k, self.bias_k), self._append_extra(v, self.bias_v)
        q, k, v = (x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-1, -2)
            weights = functional.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            seen = weights @ v
        else:
            seen = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        found: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return found.squeeze(0), None if weights is None else weights.squeeze(0)
        return found.transpose(0, 1) if turned else found, weights

    def close_tensors(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as `nn.MultiheadAttention` has them."""
        found = {name: t for name, t in own.items() if not name.startswith(_PARTS)}
        weights = [own[f"{name}.weight"] for name in _PARTS if f"{name}.weight" in own]
        if len(weights) < len(_PARTS):
            return dict(own)
        if self.was_fused:
            found["in_proj_weight"] = torch.cat(weights)
        else:
            found |= {f"{name}_weight": weight for name, weight in zip(_PARTS, weights, strict=True)}
        if f"{_PARTS[0]}.bias" in own:
            found["in_proj_bias"] = torch.cat([own[f"{name}.bias"] for name in _PARTS])
        return found

    def make_original(self) -> nn.Module:
        """An `nn.MultiheadAttention` of these sizes, without values."""
        return nn.MultiheadAttention(
            self.embed_dim, self.num_heads, self.dropout, self.in_proj_bias is not None, self.bias_k is not None, self.add_zero_attn,
            self.kdim, self.vdim, self.batch_first, device="meta",
        )  # fmt: skip

    def _parts(self) -> list[Any]:
        return [self._modules[name] for name in _PARTS]

    def _append_extra(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x (batch, keys, width) with the learned key or value behind it, and one of zeros, where the layer has such."""
        x = x if bias is None else torch.cat([x, bias.expand(len(x), 1, -1).to(x)], dim=1)
        return torch.cat([x, torch.zeros_like(x[:, :1])], dim=1) if self.add_zero_attn else x

    def _join_masks(self, attention: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """What is added to the scores (batch, heads, tokens, keys), with nothing for keys of the layer's own; None where nothing is."""
        batch, extra = len(q), int(self.bias_k is not None) + int(self.add_zero_attn)
        parts = []
        if attention is not None:
            shape = (batch, self.num_heads, *attention.shape[-2:]) if attention.dim() == 3 else (1, 1, *attention.shape)
            parts.append(_to_additive(attention, q).view(shape))
        if padding is not None:
            parts.append(_to_additive(padding, q).view(batch, 1, 1, -1))
        joined = sum(parts) if parts else None
        return functional.pad(joined, (0, extra)) if isinstance(joined, Tensor) else None


def can_open_attention(part: nn.Module) -> bool:
    """Whether `part` is an `nn.MultiheadAttention` with weights of its own."""
    if type(part) is not nn.MultiheadAttention:
        return False
    names = ("in_proj_weight",) if part._qkv_same_embed_dim else ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    return all(isinstance(part._parameters.get(name), nn.Parameter) for name in names)


def _to_additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask whose True stands for hidden as what is added to scores."""
    if mask.dtype is not torch.bool:
        return mask.to(like)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf)


def _make_linear(weight: Tensor, bias: Tensor | None, trained: bool) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=trained)
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=trained)  # type: ignore[assignment]
    return layer

"""Fused experts that are given every token, opened up: Llama 4's.

There the router multiplies each token by what it counts for with each expert, by zero for all but a few, and one product per tensor
works on all experts at once. Opened they are like other fused experts (`layers/experts.py`). Where they are called one by one, each gets
the tokens that are not zero: zeros would come out as zeros.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.layers.experts import OpenedExperts, open_fused_tensors

_NAMES = ("gate_up_proj", "down_proj")  # (experts, in, out)


class OpenedDenseExperts(OpenedExperts):
    """What stands for Llama 4's experts."""

    is_transposed = True
    loops = False

    def run_experts(self, hidden: Tensor) -> Tensor:  # type: ignore[override]  # these are given no indices
        """hidden (experts · tokens, width), all tokens once for each expert -> the same shape."""
        layer: Any = self
        given = hidden.reshape(layer.num_experts, -1, hidden.shape[-1])
        result = torch.zeros_like(given)
        for expert, rows in enumerate(given):
            tokens = torch.where(rows.ne(0).any(dim=-1))[0]
            if len(tokens):
                gate, up = self.matrices["gate_up_proj"](rows[tokens], expert).chunk(2, dim=-1)
                result[expert, tokens] = self.matrices["down_proj"](up * layer.act_fn(gate), expert)
        return result.view(-1, hidden.shape[-1])


def can_open_dense_experts(part: nn.Module) -> bool:
    """Whether `part` are Llama 4's experts."""
    kind = getattr(sys.modules.get("transformers.models.llama4.modeling_llama4"), "Llama4TextExperts", None)  # else nothing can be one
    return kind is not None and type(part) is kind and all(isinstance(part._parameters.get(name), nn.Parameter) for name in _NAMES)


def open_dense_experts(part: nn.Module) -> nn.Module:
    """The same experts, with a layer per fused tensor."""
    return open_fused_tensors(part, _NAMES, OpenedDenseExperts)

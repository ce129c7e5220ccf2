"""Modules that stand in for others, and the one place that builds them from a treatment.

`replaced_` serves both when a method has just solved a place and when a saved model is loaded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trimodal.core.storage import FACTORED
from trimodal.layers.chain import Chain, chain, merged
from trimodal.layers.parametrization import host_, is_hosting, unhost_
from trimodal.layers.recurrent import Recurrent, open_recurrent_
from trimodal.layers.removed import Removed
from trimodal.layers.standardised import Standardised, standardised
from trimodal.layers.stored import Coded, Sparse, Store, store
from trimodal.layers.token_merging import BlockMerging, is_merging, merge_tokens_
from trimodal.layers.weight_sharing import borrow_, is_borrowing, tie_

__all__ = [
    "BlockMerging", "Chain", "Coded", "Recurrent", "Removed", "Sparse", "Standardised", "Store", "borrow_", "host_", "is_borrowing",
    "is_hosting", "is_merging", "merge_tokens_", "merged", "open_recurrent_", "replaced_", "standardised", "store", "tie_",
    "unhost_",
]  # fmt: skip


def replaced_(
    layer: nn.Module, kind: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor], bias: Tensor | None
) -> nn.Module:
    """`layer` with its weight kept as `kind`: itself, changed, or for a factorised weight the chain to put in its place.

    `bias` replaces the old bias where given (also where there was none).
    """
    kept: nn.Parameter | None = getattr(layer, "bias", None)
    if bias is not None:
        kept = nn.Parameter(bias, requires_grad=bias.is_floating_point())
    if kind in FACTORED:
        return chain(layer, kind, tensors, kept)
    if kind == "dense":
        layer.weight = nn.Parameter(tensors["weight"])
    else:
        host_(layer, store(kind, options, tensors))
    if kept is not None:
        layer.bias = kept
    return layer

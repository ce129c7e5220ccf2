"""Modules that stand in for others, and the one place that builds them from a treatment.

`replace_weight_` serves both when a method has just solved a place and when a saved model is loaded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trimodal.core.storage import FACTORED
from trimodal.layers.affine import Affine, NotAffine
from trimodal.layers.chain import FactorChain, build_factor_chain, merge_factor_chain
from trimodal.layers.experts import ExpertMatrix
from trimodal.layers.kept_weight import DEQUANTIZE_POLICIES, DequantizePolicy, count_kept_bytes, set_dequantize_policy_
from trimodal.layers.layer_affine import find_affine
from trimodal.layers.opened import OpenedLayer
from trimodal.layers.opening import close_layers_, close_tensors, open_layers_
from trimodal.layers.parametrization import is_weight_parametrized, parametrize_weight_, remove_parametrization_
from trimodal.layers.question_thinning import QuestionThinning, thin_by_question_
from trimodal.layers.read_tokens import find_unread_share, note_unread_share_, place_unmarked
from trimodal.layers.recurrent import Recurrent
from trimodal.layers.removed import RemovedLayer
from trimodal.layers.standardised import AffineFreeNorm, strip_norm_affine
from trimodal.layers.stored import CodedWeight, SparseWeight, Store, make_weight_store
from trimodal.layers.token_merging import BlockMerging, has_token_merging, merge_tokens_
from trimodal.layers.token_thinning import (
    TokenThinning,
    WatchedAttention,
    mark_unread_,
    skip_marked_,
    watch_attention_,
)
from trimodal.layers.trained_scales import train_scales
from trimodal.layers.transposed_convolution import TransposedConvolution
from trimodal.layers.weight_sharing import has_shared_weight, share_weight_, tie_weight_

__all__ = [
    "BlockMerging", "FactorChain", "CodedWeight", "Recurrent", "RemovedLayer", "SparseWeight", "AffineFreeNorm",
    "Store", "share_weight_", "parametrize_weight_", "has_shared_weight", "is_weight_parametrized", "has_token_merging",
    "merge_tokens_", "merge_factor_chain", "open_layers_", "close_layers_", "close_tensors", "replace_weight_",
    "strip_norm_affine", "make_weight_store", "tie_weight_", "remove_parametrization_", "Affine", "NotAffine",
    "find_affine", "ExpertMatrix", "OpenedLayer", "TransposedConvolution", "DEQUANTIZE_POLICIES", "DequantizePolicy",
    "count_kept_bytes", "set_dequantize_policy_", "TokenThinning", "WatchedAttention", "mark_unread_",
    "place_unmarked", "skip_marked_", "watch_attention_", "QuestionThinning", "thin_by_question_",
    "find_unread_share", "note_unread_share_", "train_scales",
]  # fmt: skip


def replace_weight_(
    layer: nn.Module, kind: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor], bias: Tensor | None
) -> nn.Module:
    """`layer` with its weight kept as `kind`: itself, changed, or for a factorised weight the chain to put in its place.

    `bias` (rows,) replaces the old bias where given (also where there was none).
    """
    kept: nn.Parameter | None = getattr(layer, "bias", None)
    if bias is not None:
        kept = nn.Parameter(bias, requires_grad=bias.is_floating_point())
    if kind in FACTORED:
        return build_factor_chain(layer, kind, tensors, kept)
    if kind == "dense":
        layer.weight = nn.Parameter(tensors["weight"])
    else:
        parametrize_weight_(layer, make_weight_store(kind, options, tensors))
    if kept is not None:
        layer.bias = kept
    return layer

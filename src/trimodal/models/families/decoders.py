"""The decoders that multimodal models are built on, by the `model_type` of their configuration: what one block holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trimodal.models.families import llama
from trimodal.models.parts import AnyPart, LayerPart, MlpPart, TowerPart

# Gemma 2 and 3: a norm before and one behind each branch; Gemma 3 norms query and key too.
GEMMA_BLOCK: tuple[AnyPart, ...] = (
    *llama.BLOCK[:2],
    LayerPart("post_attention_layernorm", "norm", "attention.after"),
    LayerPart("pre_feedforward_layernorm", "norm", "mlp"),
    MlpPart("mlp.up_proj", "mlp.down_proj", gate="mlp.gate_proj"),
    LayerPart("post_feedforward_layernorm", "norm", "mlp.after"),
)
# The text models inside of multimodal ones, which have a `model_type` of their own and the block of another.
_LIKE_LLAMA = ("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen2_5_omni_text")
BLOCKS: Mapping[str, tuple[AnyPart, ...]] = {
    **dict.fromkeys((*llama.MODEL_TYPES, *_LIKE_LLAMA), llama.BLOCK),
    **dict.fromkeys(("gemma2", "gemma3_text"), GEMMA_BLOCK),
}


def declare_decoder(root: str, kind: str, whole_width: str = "", **changes: Any) -> TowerPart:
    """The decoder of the `model_type` `kind` at `root`, without its embedding; `changes` are other fields of the part."""
    return replace(llama.declare_decoder(root, whole_width), block=BLOCKS[kind], **changes)

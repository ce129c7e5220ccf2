"""Llama and the decoders built like it (Mistral, Qwen, Gemma, ...). Touvron et al. 2023, arXiv 2302.13971; grouped
queries: Ainslie et al. 2023, arXiv 2305.13245."""

from __future__ import annotations

from torch import nn

from trimodal.core import Layout
from trimodal.core.site import ROUTER
from trimodal.models.declare import build_layout, explain_fixed_width, root_of
from trimodal.models.families import text
from trimodal.models.parts import OWN, AttentionPart, LayerPart, MlpPart, TowerPart

MLP = (
    MlpPart("mlp.up_proj", "mlp.down_proj", gate="mlp.gate_proj"),
    MlpPart("mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj", gate="mlp.shared_expert.gate_proj", branch="shared"),
    LayerPart("mlp.gate", ROUTER, stream=(OWN, ""), sizes=("mlp.gate.hidden_dim",)),
    MlpPart(
        "mlp.experts.matrices.gate_up_proj",
        "mlp.experts.matrices.down_proj",
        gate="mlp.experts.matrices.gate_up_proj",
        branch="experts",
    ),
    LayerPart("mlp.shared_expert_gate", ROUTER, "shared", stream=(OWN, "")),
)  # one for all tokens, or experts that a router chooses between (Jiang et al. 2024, Mixtral, arXiv 2401.04088)
BLOCK = (
    LayerPart("input_layernorm", "norm", "attention"),
    AttentionPart(
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        width="self_attn.head_dim",
        query_norm="self_attn.q_norm",
        key_norm="self_attn.k_norm",
    ),
    LayerPart("post_attention_layernorm", "norm", "mlp"),
    *MLP,
)
MODEL_TYPES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3", "granite", "mixtral", "qwen2_moe", "qwen3_moe",
)  # fmt: skip


def declare_embedding(root: str) -> TowerPart:
    """The token embedding of the decoder at `root`, which in LLaVA runs before the vision tower."""
    return TowerPart("text", "text", root, stem=(LayerPart("embed_tokens", "embedding"),))


def declare_decoder(root: str, whole_width: str = "") -> TowerPart:
    """All the rest of the decoder at `root`. Keys and values serve a group of queries each: a unit of `heads` is one
    such group."""
    return TowerPart(
        "text",
        "text",
        root,
        blocks="layers",
        block=BLOCK,
        head=(LayerPart("norm", "norm", "final"),),
        after=(LayerPart("lm_head", "head"), LayerPart("score", "head")),
        whole_width=whole_width,
    )


def describe(module: nn.Module) -> Layout:
    """One tower; `lm_head` may use the embedding's weight."""
    root = root_of(module, "model")
    fixed = explain_fixed_width(output.field for output in text.list_decoder_outputs(module))
    return build_layout(module, [declare_embedding(root), declare_decoder(root, fixed)])


FAMILY = text.make_decoder_family("llama", MODEL_TYPES, describe)

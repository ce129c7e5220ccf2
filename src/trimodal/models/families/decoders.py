"""Decoders of text that are not quite Llama, one table for each kind: GPT-2, OPT, GPT-NeoX, Phi, Phi-3, Gemma 2 and 3, and the mixtures of
experts of OLMoE and GPT-OSS.

    GPT-2      Radford et al. 2019                 query, key and value are one `Conv1D`, opened by `layers/opening.py`
    OPT        Zhang et al. 2022, arXiv 2205.01068
    GPT-NeoX   Black et al. 2022, arXiv 2204.06745 query, key and value of a head stand together in one weight
    Phi        Li et al. 2023, arXiv 2309.05463    attention and MLP read the same norm
    Phi-3      Abdin et al. 2024, arXiv 2404.14219 one weight for query, key and value, and one for gate and up
    Gemma 2, 3 Gemma Team 2024, arXiv 2408.00118   norms before and behind attention and MLP
    OLMoE      Muennighoff et al. 2024, arXiv 2409.02060   queries and keys are normed over all heads together
    GPT-OSS    Agarwal et al. 2025, arXiv 2508.10925       biases per expert, and a sink per head
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from trimodal.core import Layout
from trimodal.core.site import ROUTER
from trimodal.models.declare import build_layout, config_of, explain_fixed_width, root_of
from trimodal.models.families import llama, text
from trimodal.models.parts import OWN, AnyPart, LayerPart, MlpPart, TowerPart, declare_attention

_QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
HEADS = tuple(LayerPart(path, "head") for path in ("lm_head", "score", "classifier", "qa_outputs"))


@dataclass(frozen=True)
class DecoderTable:
    """Where the parts of one kind of decoder stand, as in `TowerPart`; `roots` are where it may stand in a class with a head."""

    block: tuple[AnyPart, ...]
    stem: tuple[LayerPart, ...] = (LayerPart("embed_tokens", "embedding"),)
    blocks: str = "layers"
    head: tuple[LayerPart, ...] = (LayerPart("norm", "norm", "final"),)
    roots: tuple[str, ...] = ("model",)


def _declare_gpt2_attention(path: str, norm: str, branch: str = "") -> tuple[AnyPart, ...]:
    """GPT-2's attention at `path` and the norm before it; in one that looks elsewhere the query has a weight of its own."""
    return (
        LayerPart(norm, "norm", branch or "attention"),
        declare_attention(
            path, "q_attn" if branch else "c_attn", "c_attn", "c_attn", "c_proj", width="head_dim", heads=("num_heads",),
            sizes=("split_size",), branch=branch, memory="" if branch else OWN,
        ),
    )


_GPT2 = DecoderTable(
    block=(
        *_declare_gpt2_attention("attn", "ln_1"),
        *_declare_gpt2_attention("crossattention", "ln_cross_attn", "cross"),
        LayerPart("ln_2", "norm", "mlp"),
        MlpPart("mlp.c_fc", "mlp.c_proj"),
    ),
    stem=(LayerPart("wte", "embedding"), LayerPart("wpe", "embedding", "position")),
    blocks="h",
    head=(LayerPart("ln_f", "norm", "final"),),
    roots=("transformer",),
)
_NEOX = DecoderTable(
    block=(
        LayerPart("input_layernorm", "norm", "attention"),
        declare_attention(
            "attention", "query_key_value", "query_key_value", "query_key_value", "dense", width="head_size", interleaved=True,
        ),
        LayerPart("post_attention_layernorm", "norm", "mlp"),
        MlpPart("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ),
    stem=(LayerPart("embed_in", "embedding"),),
    head=(LayerPart("final_layer_norm", "norm", "final"),),
    roots=("gpt_neox",),
)  # fmt: skip
_OPT_ATTENTION = declare_attention(
    "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", width="head_dim", heads=("num_heads",), sizes=("embed_dim",),
)  # fmt: skip
_OPT_NORMS = (LayerPart("self_attn_layer_norm", "norm", "attention"), LayerPart("final_layer_norm", "norm", "mlp"))
_OPT_STEM = LayerPart("embed_positions", "embedding", "position")
_OPT = DecoderTable(
    block=(_OPT_NORMS[0], _OPT_ATTENTION, _OPT_NORMS[1], MlpPart("fc1", "fc2")),
    stem=(LayerPart("embed_tokens", "embedding"), _OPT_STEM),
    head=(LayerPart("final_layer_norm", "norm", "final"),),
    roots=("model.decoder", "decoder"),
)
_PHI = DecoderTable(
    block=(
        LayerPart("input_layernorm", "norm", "attention"),
        declare_attention(
            "self_attn", "q_proj", "k_proj", "v_proj", "dense", width="head_dim", norms=("q_layernorm", "k_layernorm"), late_norms=True,
        ),
        MlpPart("mlp.fc1", "mlp.fc2"),
    ),
    head=(LayerPart("final_layernorm", "norm", "final"),),
)  # fmt: skip
_PHI3 = DecoderTable(
    block=(
        LayerPart("input_layernorm", "norm", "attention"),
        declare_attention(
            "self_attn", "qkv_proj", "qkv_proj", "qkv_proj", "o_proj", width="head_dim", heads=("config.num_attention_heads",),
            key_heads=("num_key_value_heads",),
        ),
        LayerPart("post_attention_layernorm", "norm", "mlp"),
        MlpPart("mlp.gate_up_proj", "mlp.down_proj", gate="mlp.gate_up_proj"),
    ),
)  # fmt: skip
_GEMMA = DecoderTable(
    block=(
        llama.BLOCK[0],
        declare_attention("self_attn", *_QKVO, width="head_dim", norms=("q_norm", "k_norm"), late_norms=True),
        LayerPart("post_attention_layernorm", "norm", "attention.after"),
        LayerPart("pre_feedforward_layernorm", "norm", "mlp"),
        MlpPart("mlp.up_proj", "mlp.down_proj", gate="mlp.gate_proj"),
        LayerPart("post_feedforward_layernorm", "norm", "mlp.after"),
    ),
)  # fmt: skip
_OLMOE = DecoderTable(
    block=(
        llama.BLOCK[0],
        declare_attention(
            "self_attn", *_QKVO, norms=("q_norm", "k_norm"), whole_heads="its queries and keys are normed over all heads together"
        ),
        *llama.BLOCK[2:],
    ),
)  # fmt: skip
_EXPERTS = "mlp.experts"
_GPT_OSS = DecoderTable(
    block=(
        llama.BLOCK[0],
        declare_attention("self_attn", *_QKVO, width="head_dim", per_head=("sinks",)),
        LayerPart("post_attention_layernorm", "norm", "mlp"),
        LayerPart("mlp.router", ROUTER, stream=(OWN, ""), sizes=("mlp.router.hidden_dim",)),
        MlpPart(
            f"{_EXPERTS}.matrices.gate_up_proj", f"{_EXPERTS}.matrices.down_proj", gate=f"{_EXPERTS}.matrices.gate_up_proj",
            branch="experts", interleaved=True, biases=(f"{_EXPERTS}.gate_up_proj_bias", f"{_EXPERTS}.down_proj_bias"),
        ),
    ),
)  # fmt: skip
TABLES: Mapping[str, DecoderTable] = {
    "gpt2": _GPT2, "gpt_neox": _NEOX, "opt": _OPT, "phi": _PHI, "phi3": _PHI3, "gemma2": _GEMMA, "gemma3_text": _GEMMA,
    "olmoe": _OLMOE, "gpt_oss": _GPT_OSS, **dict.fromkeys(llama.MODEL_TYPES, DecoderTable(block=llama.BLOCK)),
}  # fmt: skip


def declare_decoder(module: nn.Module, model_type: str, root: str, whole_width: str = "") -> TowerPart:
    """The decoder of kind `model_type`, one of `TABLES`, that stands at `root`, with its embeddings."""
    table = TABLES[model_type]
    tower = TowerPart(
        "text", "text", root, stem=table.stem, blocks=table.blocks, block=table.block, head=table.head, after=HEADS,
        whole_width=whole_width,
    )  # fmt: skip
    return _adapt_opt(tower, module.get_submodule(root)) if table is _OPT else tower


def _adapt_opt(tower: TowerPart, decoder: nn.Module) -> TowerPart:
    """OPT as it is here: some project from and to narrower embeddings, and norm behind the layers."""
    if getattr(decoder, "project_in", None) is not None:
        words = LayerPart("embed_tokens", "embedding", stream=("", ""))
        tower = replace(
            tower, stem=(words, _OPT_STEM, LayerPart("project_in", "projector", "in", stream=("", OWN))),
            head=(*tower.head, LayerPart("project_out", "projector", "out", stream=(OWN, ""))),
            after=tuple(replace(head, stream=("", "")) for head in HEADS),
        )  # fmt: skip
    behind = (_OPT_ATTENTION, _OPT_NORMS[0], MlpPart("fc1", "fc2"), _OPT_NORMS[1])
    return tower if config_of(decoder).do_layer_norm_before else replace(tower, block=behind)


def _describe(module: nn.Module, kind: str) -> Layout:
    """One tower."""
    fixed = explain_fixed_width(output.field for output in text.list_decoder_outputs(module))
    return build_layout(module, [declare_decoder(module, kind, root_of(module, *TABLES[kind].roots), fixed)])


FAMILIES = tuple(
    text.make_decoder_family(name, types, partial(_describe, kind=types[0]))
    for name, types in {
        "gpt2": ("gpt2",), "opt": ("opt",), "gpt-neox": ("gpt_neox",), "phi": ("phi",), "phi3": ("phi3",),
        "gemma": ("gemma2", "gemma3_text"), "olmoe": ("olmoe",), "gpt-oss": ("gpt_oss",),
    }.items()
)  # fmt: skip

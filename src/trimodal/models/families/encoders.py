"""Encoders of text that are not quite BERT, one function for each kind: DistilBERT, MPNet, ELECTRA, ALBERT, ModernBERT, DeBERTa v2 and v3.

    DistilBERT   Sanh et al. 2019, arXiv 1910.01108     BERT by other names
    MPNet        Song et al. 2020, arXiv 2004.09297     all blocks share a table of a number per head and distance
    ELECTRA      Clark et al. 2020, arXiv 2003.10555    small ones embed in fewer dimensions and project
    ALBERT       Lan et al. 2019, arXiv 1909.11942      one block that runs many times
    ModernBERT   Warner et al. 2024, arXiv 2412.13663   one weight for query, key and value, and one for up and gate
    DeBERTa v3   He et al. 2021, arXiv 2111.09543       queries and keys of positions, made by the layers that make those of words or
                                                        by some of their own
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from trimodal.core import Layout
from trimodal.models.declare import build_layout, explain_fixed_width, root_of
from trimodal.models.families import bert, text
from trimodal.models.parts import OWN, LayerPart, MlpPart, TowerPart, declare_attention
from trimodal.models.weighted import has_weight

_APART = ("", "")  # from the stream
_COUNTED: dict[str, Any] = {"width": "attention_head_size", "heads": ("num_attention_heads",), "sizes": ("all_head_size",)}
_MIXED = "a convolution runs between its first block and the second"
_SHARED = "it has one block, which runs many times: none can be spared without the others"


def _declare_embeddings(on_stream: bool = True) -> tuple[LayerPart, ...]:
    """Those of BERT, in dimensions of their own where they are not `on_stream`."""
    where = None if on_stream else _APART
    return (
        LayerPart("embeddings.word_embeddings", "embedding", stream=where),
        LayerPart("embeddings.token_type_embeddings", "embedding", "type", stream=where),
        LayerPart("embeddings.position_embeddings", "embedding", "position", stream=where),
        LayerPart("embeddings.LayerNorm", "norm", "stem", stream=where),
    )


def _declare_distilbert(module: nn.Module, root: str, fixed: str) -> TowerPart:
    attention = declare_attention(
        "attention", "q_lin", "k_lin", "v_lin", "out_lin", width="attention_head_size", heads=("n_heads",), sizes=("dim",),
    )  # fmt: skip
    return TowerPart(
        "text", "text", root, stem=_declare_embeddings(), blocks="transformer.layer",
        block=(
            attention, LayerPart("sa_layer_norm", "norm", "attention"), MlpPart("ffn.lin1", "ffn.lin2"),
            LayerPart("output_layer_norm", "norm", "mlp"),
        ),
        after=(
            LayerPart("vocab_transform", "head", "transform", stream=(OWN, OWN)),
            LayerPart("vocab_layer_norm", "norm", "head"),
            LayerPart("vocab_projector", "head"),
            LayerPart("pre_classifier", "head", "transform", stream=(OWN, "")),
            LayerPart("classifier", "head", stream=_APART if has_weight(module, "pre_classifier") else None),
            LayerPart("qa_outputs", "head"),
        ),
        whole_width=fixed,
    )  # fmt: skip


def _declare_mpnet(module: nn.Module, root: str, fixed: str) -> TowerPart:
    attention = declare_attention("attention.attn", "q", "k", "v", "o", **_COUNTED, together=True)
    table = LayerPart("encoder.relative_attention_bias", "embedding", "relative", channels=("", "heads"), stream=_APART)
    pooled = has_weight(module, f"{root}.pooler.dense".strip("."))
    return TowerPart(
        "text", "text", root, stem=(*_declare_embeddings(), table), blocks="encoder.layer",
        block=(attention, LayerPart("attention.LayerNorm", "norm", "attention"), *bert.BLOCK[-2:]),
        head=(LayerPart("pooler.dense", "pooler"),),
        after=(*bert.HEADS, LayerPart("classifier", "head", stream=_APART if pooled else None)), whole_width=fixed,
    )  # fmt: skip


def _declare_electra(module: nn.Module, root: str, fixed: str) -> TowerPart:
    projected = has_weight(module, f"{root}.embeddings_project".strip("."))
    after = (OWN, "") if projected else (OWN, OWN)
    return TowerPart(
        "text", "text", root,
        stem=(*_declare_embeddings(not projected), LayerPart("embeddings_project", "projector", "embedding", stream=("", OWN))),
        blocks="encoder.layer", block=bert.BLOCK,
        after=(
            LayerPart("discriminator_predictions.dense", "head", "transform", stream=(OWN, "")),
            LayerPart("discriminator_predictions.dense_prediction", "head", stream=_APART),
            LayerPart("generator_predictions.dense", "head", "transform", stream=after),
            LayerPart("generator_predictions.LayerNorm", "norm", "head", stream=_APART if projected else None),
            LayerPart("generator_lm_head", "head", stream=_APART if projected else None),
            *bert.HEADS,
            LayerPart("sequence_summary.summary", "head", "transform", stream=(OWN, "")),
            LayerPart("classifier", "head", stream=_APART if has_weight(module, "sequence_summary.summary") else None),
        ),
        whole_width=fixed,
    )  # fmt: skip


def _declare_albert(module: nn.Module, root: str, fixed: str) -> TowerPart:
    attention = declare_attention("attention", "query", "key", "value", "dense", **_COUNTED)
    pooled = has_weight(module, f"{root}.pooler".strip("."))
    return TowerPart(
        "text", "text", root,
        stem=(
            *_declare_embeddings(False), LayerPart("encoder.embedding_hidden_mapping_in", "projector", "embedding", stream=("", OWN)),
        ),
        blocks="encoder.albert_layer_groups.*.albert_layers.*",
        block=(
            attention, LayerPart("attention.LayerNorm", "norm", "attention"), MlpPart("ffn", "ffn_output"),
            LayerPart("full_layer_layer_norm", "norm", "mlp"),
        ),
        head=(LayerPart("pooler", "pooler"),),
        after=(
            LayerPart("predictions.dense", "head", "transform", stream=(OWN, "")),
            LayerPart("predictions.LayerNorm", "norm", "head", stream=_APART),
            LayerPart("predictions.decoder", "head", stream=_APART),
            LayerPart("sop_classifier.classifier", "head", "order", stream=_APART),
            LayerPart("classifier", "head", stream=_APART if pooled else None),
            LayerPart("qa_outputs", "head"),
        ),
        whole_blocks=_SHARED, whole_width=fixed,
    )  # fmt: skip


def _declare_modernbert(module: nn.Module, root: str, fixed: str) -> TowerPart:
    return TowerPart(
        "text", "text", root,
        stem=(LayerPart("embeddings.tok_embeddings", "embedding"), LayerPart("embeddings.norm", "norm", "stem")),
        blocks="layers",
        block=(
            LayerPart("attn_norm", "norm", "attention"),
            declare_attention("attn", "Wqkv", "Wqkv", "Wqkv", "Wo", width="head_dim"),
            LayerPart("mlp_norm", "norm", "mlp"),
            MlpPart("mlp.Wi", "mlp.Wo", gate="mlp.Wi"),
        ),
        head=(LayerPart("final_norm", "norm", "final"),),
        after=(
            LayerPart("head.dense", "head", "transform", stream=(OWN, OWN)),
            LayerPart("head.norm", "norm", "head"),
            LayerPart("decoder", "head"),
            LayerPart("classifier", "head"),
        ),
        whole_width=fixed,
    )  # fmt: skip


def _declare_deberta(module: nn.Module, root: str, fixed: str) -> TowerPart:
    attention = declare_attention(
        "attention", "self.query_proj", "self.key_proj", "self.value_proj", "output.dense", width="self.attention_head_size",
        heads=("self.num_attention_heads",), sizes=("self.all_head_size",), positions=("self.pos_key_proj", "self.pos_query_proj"),
    )  # fmt: skip
    projected = has_weight(module, f"{root}.embeddings.embed_proj".strip("."))
    words, kinds, places, norm = _declare_embeddings(not projected)
    mixing = (
        LayerPart("encoder.conv.conv", "conv", "mixing", stream=(OWN, OWN)), LayerPart("encoder.conv.LayerNorm", "norm", "mixing"),
    )  # fmt: skip
    return TowerPart(
        "text", "text", root,
        stem=(
            words, places, kinds, LayerPart("embeddings.embed_proj", "projector", "embedding", stream=("", OWN)),
            LayerPart(norm.path, "norm", "stem"),
            LayerPart("encoder.rel_embeddings", "embedding", "relative"), LayerPart("encoder.LayerNorm", "norm", "relative"),
        ),
        blocks="encoder.layer",
        block=(attention, *bert.BLOCK[1:2], *bert.BLOCK[-2:]),
        between={"encoder.layer.0": mixing},
        whole_blocks=_MIXED if has_weight(module, f"{root}.encoder.conv.conv".strip(".")) else "",
        after=(
            LayerPart("cls.predictions.transform.dense", "head", "transform", stream=(OWN, "" if projected else OWN)),
            LayerPart("cls.predictions.transform.LayerNorm", "norm", "head", stream=_APART if projected else None),
            LayerPart("cls.predictions.decoder", "head", stream=_APART if projected else None),
            LayerPart("lm_predictions.lm_head.dense", "head", "transform", stream=(OWN, OWN)),
            LayerPart("lm_predictions.lm_head.LayerNorm", "norm", "head"),
            LayerPart("pooler.dense", "pooler"),
            LayerPart("classifier", "head", stream=_APART if has_weight(module, "pooler.dense") else None),
            LayerPart("qa_outputs", "head"),
        ),
        whole_width=fixed,
    )  # fmt: skip


_KINDS: Mapping[str, tuple[tuple[str, ...], str, Callable[[nn.Module, str, str], TowerPart]]] = {
    "distilbert": (("distilbert",), "distilbert", _declare_distilbert),
    "mpnet": (("mpnet",), "mpnet", _declare_mpnet),
    "electra": (("electra",), "electra", _declare_electra),
    "albert": (("albert",), "albert", _declare_albert),
    "modernbert": (("modernbert",), "model", _declare_modernbert),
    "deberta": (("deberta-v2",), "deberta", _declare_deberta),
}  # by name: model types, where it stands under a head, its parts


def _make_describe(root: str, declare: Callable[[nn.Module, str, str], TowerPart]) -> Callable[[nn.Module], Layout]:
    def describe(module: nn.Module) -> Layout:
        fixed = explain_fixed_width(output.field for output in text.list_encoder_outputs(module))
        return build_layout(module, [declare(module, root_of(module, root), fixed)])

    return describe


FAMILIES = tuple(
    text.make_encoder_family(name, types, _make_describe(root, declare)) for name, (types, root, declare) in _KINDS.items()
)

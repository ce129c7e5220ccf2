"""BERT and the sentence encoders made of it (MiniLM, BGE, GTE). Devlin et al. 2018, arXiv 1810.04805. RoBERTa, XLM-R and
CamemBERT have the same parts, and heads of their own (Liu et al. 2019, arXiv 1907.11692)."""

from __future__ import annotations

from torch import nn

from trimodal.core import Layout
from trimodal.models.declare import build_layout, explain_fixed_width, root_of
from trimodal.models.families import text
from trimodal.models.parts import OWN, AttentionPart, LayerPart, MlpPart, TowerPart


def declare_attention(path: str, branch: str = "") -> tuple[AttentionPart, LayerPart]:
    """The attention at `path` and the norm after it; also CLAP's."""
    return (
        AttentionPart(
            f"{path}.self.query",
            f"{path}.self.key",
            f"{path}.self.value",
            f"{path}.output.dense",
            width=f"{path}.self.attention_head_size",
            heads=(f"{path}.self.num_attention_heads",),
            sizes=(f"{path}.self.all_head_size",),
            branch=branch,
            memory="" if branch else OWN,
        ),
        LayerPart(f"{path}.output.LayerNorm", "norm", branch or "attention"),
    )


BLOCK = (
    *declare_attention("attention"),
    *declare_attention("crossattention", "cross"),
    MlpPart("intermediate.dense", "output.dense"),
    LayerPart("output.LayerNorm", "norm", "mlp"),
)


HEADS = (
    LayerPart("lm_head.dense", "head", "transform", stream=(OWN, OWN)),
    LayerPart("lm_head.layer_norm", "norm", "head"),
    LayerPart("lm_head.decoder", "head"),
    LayerPart("classifier.dense", "head", "transform", stream=(OWN, "")),
    LayerPart("classifier.out_proj", "head", stream=("", "")),
    LayerPart("qa_outputs", "head"),
)  # those of RoBERTa and its kin, and one for answers to questions


def declare_text_tower(root: str, whole_width: str = "", pooled: bool = False) -> TowerPart:
    """The encoder that stands at `root`; also CLAP's text tower. Where it is `pooled` a classifier reads what the pooler
    makes of the stream. The head of a masked language model is as wide as the stream since its last weight is the
    embedding's."""
    return TowerPart(
        "text",
        "text",
        root,
        stem=(
            LayerPart("embeddings.word_embeddings", "embedding"),
            LayerPart("embeddings.token_type_embeddings", "embedding", "type"),
            LayerPart("embeddings.position_embeddings", "embedding", "position"),
            LayerPart("embeddings.LayerNorm", "norm", "stem"),
        ),
        blocks="encoder.layer",
        block=BLOCK,
        head=(LayerPart("pooler.dense", "pooler"),),
        after=(
            LayerPart("cls.predictions.transform.dense", "head", "transform", stream=(OWN, OWN)),
            LayerPart("cls.predictions.transform.LayerNorm", "norm", "head"),
            LayerPart("cls.predictions.decoder", "head"),
            LayerPart("cls.seq_relationship", "head", "next", stream=("", "")),
            *HEADS,
            LayerPart("classifier", "head", stream=("", "") if pooled else None),
        ),
        whole_width=whole_width,
    )


def describe(module: nn.Module) -> Layout:
    """One tower."""
    root = root_of(module, "bert", "roberta", "xlm_roberta")
    pooled = bool(root_of(module, f"{root}.pooler".strip(".")))
    fixed = explain_fixed_width(output.field for output in text.list_encoder_outputs(module))
    return build_layout(module, [declare_text_tower(root, fixed, pooled)])


FAMILY = text.make_encoder_family("bert", ("bert", "roberta", "xlm-roberta", "camembert"), describe)

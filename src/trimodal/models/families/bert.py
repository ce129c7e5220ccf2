"""BERT and the sentence encoders made of it (MiniLM, BGE, GTE). Devlin et al. 2018, arXiv 1810.04805. RoBERTa has
the same parts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, explain_fixed_width, root_of
from trimodal.models.model import Batch, Family, LoadedSample, Output, Processors
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
            LayerPart("classifier", "head", stream=("", "") if pooled else None),
            LayerPart("qa_outputs", "head"),
        ),
        whole_width=whole_width,
    )


def describe(module: nn.Module) -> Layout:
    """One tower."""
    root = root_of(module, "bert", "roberta")
    pooled = bool(root_of(module, f"{root}.pooler".strip(".")))
    return build_layout(module, [declare_text_tower(root, explain_fixed_width(output.field for output in outputs(module)), pooled)])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Scores per class or per token, or the mean state of all tokens, which is what sentence encoders use."""
    kind = type(module).__name__
    if kind.endswith("ForSequenceClassification"):
        return (Output("logits", "text", "logits", label="label"),)
    if kind.endswith(("ForTokenClassification", "ForMaskedLM", "LMHeadModel")):
        return (Output("logits", "text", "tokens", mask="attention_mask"),)
    if kind.endswith("ForQuestionAnswering"):
        return tuple(Output(f"{end}_logits", "text", "embedding") for end in ("start", "end"))
    if kind.endswith("Model"):
        return (Output("last_hidden_state", "text", "embedding", pool="mean", mask="attention_mask"),)
    return (Output("logits", "text", "embedding"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Text only."""
    return ("text",)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (batch, tokens)."""
    return encoding.encode_texts(processors, loaded, position_limit(module))


def position_limit(module: nn.Module) -> int:
    """How many tokens the model can take. RoBERTa counts positions from the padding id on."""
    config = getattr(config_of(module), "text_config", config_of(module))
    offset = 0 if config.model_type == "bert" else config.pad_token_id + 1
    return int(config.max_position_embeddings - offset)


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Text (batch, tokens) with its padding left out."""
    return {"text": encoding.mark_text_tokens(batch)}


def example(module: nn.Module) -> dict[str, Tensor]:
    """One text of 128 tokens: `input_ids` int64 (1, tokens)."""
    return encoding.make_blank_text(module, min(encoding.USUAL_TOKENS, position_limit(module)))


FAMILY = Family("bert", ("bert", "roberta"), describe, outputs, modalities, encode, tokens, example)

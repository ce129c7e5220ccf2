"""Llama and the decoders built like it (Mistral, Qwen, Gemma, ...). Touvron et al. 2023, arXiv 2302.13971; grouped
queries: Ainslie et al. 2023, arXiv 2305.13245."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, explain_fixed_width, root_of
from trimodal.models.model import Batch, Family, LoadedSample, Output, Processors
from trimodal.models.parts import AttentionPart, LayerPart, MlpPart, TowerPart

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
    MlpPart("mlp.up_proj", "mlp.down_proj", gate="mlp.gate_proj"),
)
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3", "granite")


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
    return build_layout(module, [declare_embedding(root), declare_decoder(root, explain_fixed_width(o.field for o in outputs(module)))])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Scores of the next token, class scores, or the mean state."""
    if hasattr(module, "lm_head"):
        return (Output("logits", "text", "tokens", mask="attention_mask"),)
    if hasattr(module, "score") and type(module).__name__.endswith("ForSequenceClassification"):
        return (Output("logits", "text", "logits", label="label"),)
    if hasattr(module, "layers"):
        return (Output("last_hidden_state", "text", "embedding", pool="mean", mask="attention_mask"),)
    return (Output("logits", "text", "embedding"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Text only."""
    return ("text",)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (batch, tokens), padded on the right: the text and behind it the target, whose
    tokens are also the `labels`."""
    joined = [replace(s, text=" ".join(part for part in (s.text, s.target) if part) or None) for s in loaded]
    batch = encoding.encode_texts(processors, joined, int(config_of(module).max_position_embeddings))
    if not hasattr(module, "lm_head"):
        return batch
    return batch | encoding.make_answer_labels(processors, loaded, batch["input_ids"], batch["attention_mask"])


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Text (batch, tokens) with its padding left out; what is labelled is the answer."""
    return {"text": encoding.mark_text_tokens(batch)}


def example(module: nn.Module) -> dict[str, Tensor]:
    """One text of 128 tokens: `input_ids` int64 (1, tokens)."""
    longest = int(config_of(module).max_position_embeddings)
    return encoding.make_blank_text(module, min(encoding.USUAL_TOKENS, longest))


FAMILY = Family("llama", MODEL_TYPES, describe, outputs, modalities, encode, tokens, example)

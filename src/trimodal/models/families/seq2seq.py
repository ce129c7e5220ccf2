"""Encoders and decoders of text that are trained together: T5, and BART with those built like it (mBART, Marian, Pegasus).

    T5        Raffel et al. 2019, arXiv 1910.10683   the first block holds a table of a number per head and distance for all of them
    BART      Lewis et al. 2019, arXiv 1910.13461    norms behind attention and MLP, as in Marian (Junczys-Dowmunt et al. 2018)
    mBART     Liu et al. 2020, arXiv 2001.08210      norms before them, as in Pegasus (Zhang et al. 2019, arXiv 1912.08777)

The encoder is the tower `text`, the decoder `text_decoder`. Both use one embedding, so one stream runs through both: `text.width`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, explain_fixed_width, root_of
from trimodal.models.families import text
from trimodal.models.model import Batch, Family, LoadedSample, Output, Processors
from trimodal.models.parts import OWN, AnyPart, LayerPart, MlpPart, TowerPart, declare_attention
from trimodal.models.transformers_models.decoding import find_start_token

ENCODER, DECODER = "text", "text_decoder"
T5_TYPES = ("t5", "mt5")
_NORM_FIRST = ("mbart", "pegasus")
_TABLE = "its first block holds the table of positions that all others use"


def _declare_t5_attention(path: str, branch: str = "") -> tuple[AnyPart, ...]:
    inside = f"{path}.EncDecAttention" if branch else f"{path}.SelfAttention"
    attention = declare_attention(
        inside, "q", "k", "v", "o", width="key_value_proj_dim", heads=("n_heads",), sizes=("inner_dim",), branch=branch,
        memory=ENCODER if branch else OWN, table="relative_attention_bias", together=True,
    )  # fmt: skip
    return LayerPart(f"{path}.layer_norm", "norm", branch or "attention"), attention


def _declare_t5_mlp(path: str) -> tuple[AnyPart, ...]:
    """T5's MLP, with a gate or without; `path` is that of an attention in blocks that have no MLP there."""
    inside = f"{path}.DenseReluDense"
    return (
        LayerPart(f"{path}.layer_norm", "norm", "mlp"),
        MlpPart(f"{inside}.wi", f"{inside}.wo"),
        MlpPart(f"{inside}.wi_1", f"{inside}.wo", gate=f"{inside}.wi_0"),
    )


def _declare_t5(name: str, root: str, fixed: str, config: Any) -> TowerPart:
    cross = name == DECODER
    rest = (*_declare_t5_attention("layer.1", "cross"), *_declare_t5_mlp("layer.2")) if cross else _declare_t5_mlp("layer.1")
    held = ("model_dim",) if cross and getattr(config, "scale_decoder_outputs", False) else ()  # of the class with the head
    return TowerPart(
        name, "text", root, stem=(LayerPart("embed_tokens", "embedding"),), blocks="block", held=held,
        block=(*_declare_t5_attention("layer.0"), *rest), head=(LayerPart("final_layer_norm", "norm", "final"),),
        whole_blocks=_TABLE, counted="num_layers", whole_width=fixed, stream=ENCODER if cross else OWN,
    )  # fmt: skip


def _declare_bart_block(norm_first: bool, cross: bool) -> tuple[AnyPart, ...]:
    """One block of the encoder, or with a `cross`-attention one of the decoder."""
    found: list[AnyPart] = []
    for path, branch in (("self_attn", ""), ("encoder_attn", "cross"))[: 2 if cross else 1]:
        norm = LayerPart(f"{path}_layer_norm", "norm", branch or "attention")
        attention = declare_attention(
            path, "q_proj", "k_proj", "v_proj", "out_proj", width="head_dim", heads=("num_heads",), sizes=("embed_dim",),
            branch=branch, memory=ENCODER if branch else OWN,
        )  # fmt: skip
        found += [norm, attention] if norm_first else [attention, norm]
    norm, mlp = LayerPart("final_layer_norm", "norm", "mlp"), MlpPart("fc1", "fc2")
    return (*found, norm, mlp) if norm_first else (*found, mlp, norm)


def _declare_bart(name: str, root: str, fixed: str, norm_first: bool, alone: bool) -> TowerPart:
    """The encoder or decoder at `root`; a decoder may stand `alone`."""
    cross = name == DECODER
    return TowerPart(
        name, "text", root,
        stem=(
            LayerPart("embed_tokens", "embedding"), LayerPart("embed_positions", "embedding", "position"),
            LayerPart("layernorm_embedding", "norm", "stem"),
        ),
        blocks="layers", block=_declare_bart_block(norm_first, cross), head=(LayerPart("layer_norm", "norm", "final"),),
        counted="decoder_layers" if cross else "encoder_layers", whole_width=fixed, stream=ENCODER if cross and not alone else OWN,
    )  # fmt: skip


def describe(module: nn.Module) -> Layout:
    """The encoder, then the decoder, those that the class has, and its head."""
    fixed, config = explain_fixed_width(output.field for output in outputs(module)), config_of(module)
    roots = {name: _find_tower(module, name) for name in (ENCODER, DECODER)}
    found = {name: root for name, root in roots.items() if root}
    towers = [
        _declare_t5(name, root, fixed, config) if config.model_type in T5_TYPES
        else _declare_bart(name, root, fixed, config.model_type in _NORM_FIRST, len(found) == 1)
        for name, root in found.items()
    ]  # fmt: skip
    above = next(iter(found.values())).rpartition(".")[0]
    shared = LayerPart(f"{above}.shared".strip("."), "embedding", "shared")
    head = TowerPart(list(found)[-1], "text", after=(
        shared, LayerPart("lm_head", "head"), LayerPart("qa_outputs", "head"), LayerPart("classifier", "head"),
        LayerPart("classification_head.dense", "head", "transform", stream=(OWN, "")),
        LayerPart("classification_head.out_proj", "head", stream=("", "")),
    ))  # fmt: skip
    return build_layout(module, [*towers, head])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Scores of the next token, class scores, or states: the decoder's, or the encoder's where it is alone."""
    kind, said = type(module).__name__, "decoder_attention_mask" if _has_both(module) else "attention_mask"
    if hasattr(module, "lm_head"):
        return (Output("logits", "text", "tokens", mask=said),)
    if kind.endswith("ForSequenceClassification"):
        return (Output("logits", "text", "logits", label="label"),)
    if kind.endswith("ForTokenClassification"):
        return (Output("logits", "text", "tokens", mask="attention_mask"),)
    if kind.endswith("ForQuestionAnswering"):
        return tuple(Output(f"{end}_logits", "text", "embedding") for end in ("start", "end"))
    return (Output("last_hidden_state", "text", "embedding", pool="mean", mask=said),)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (batch, tokens) of the texts, and of the targets `decoder_input_ids` with their mask: the
    start token and all but the end. A sample without a target says its own text."""
    batch = encoding.encode_texts(processors, loaded, _position_limit(module))
    if not _has_both(module) or not hasattr(module, "lm_head"):
        return batch
    end, pad = (getattr(config_of(module), name, None) for name in ("eos_token_id", "pad_token_id"))
    rows = encoding.make_decoder_rows(processors, loaded, find_start_token(module), end, _position_limit(module))
    ids, mask = encoding.pad_token_rows(rows, int(pad or 0))
    return batch | {"decoder_input_ids": ids, "decoder_attention_mask": mask}


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Text all of it, without padding: the encoder's (batch, tokens), which keys and values of the cross-attention are made of
    too, and the decoder's."""
    read = encoding.mark_text_tokens(batch)
    if not _find_tower(module, ENCODER):
        return {DECODER: read}
    found = {ENCODER: read, f"{DECODER}.cross": read}
    if "decoder_input_ids" in batch:
        found[DECODER] = encoding.mark_text_tokens(batch, "decoder_input_ids", "decoder_attention_mask")
    return found


def example(module: nn.Module) -> dict[str, Tensor]:
    """A text of 128 tokens, and one that is said, (1, tokens) each."""
    read = encoding.make_blank_text(module, min(encoding.USUAL_TOKENS, _position_limit(module)))
    if not _has_both(module) or not (hasattr(module, "lm_head") or type(module).__name__.endswith("Model")):
        return read
    return read | {f"decoder_{name}": value for name, value in read.items()}


def _find_tower(module: nn.Module, name: str) -> str:
    """Where the encoder or the decoder stands, empty if there is none."""
    part = "decoder" if name == DECODER else "encoder"
    return root_of(module, f"model.{part}", f"model.model.{part}", f"transformer.{part}", part)


def _has_both(module: nn.Module) -> bool:
    return bool(_find_tower(module, ENCODER) and _find_tower(module, DECODER))


def _position_limit(module: nn.Module) -> int:
    """How many tokens the model can take; T5 was trained with so many, and can take more."""
    config = config_of(module)
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 512)


T5 = Family("t5", T5_TYPES, describe, outputs, text.modalities, encode, tokens, example)
BART = Family("bart", ("bart", "mbart", "marian", "pegasus"), describe, outputs, text.modalities, encode, tokens, example)
FAMILIES = (T5, BART)

"""Wav2Vec2-BERT: a Conformer over a spectrogram, each block two perceptrons, an attention and a convolution. Barrault et al. 2023,
arXiv 2312.05187; Conformer: Gulati et al. 2020, arXiv 2005.08100."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, explain_fixed_blocks, root_of
from trimodal.models.families import wav2vec2
from trimodal.models.families.whole_units import keep_units_whole
from trimodal.models.model import Batch, Family, LoadedSample, Processors
from trimodal.models.parts import AnyPart, AttentionPart, LayerPart, MlpPart, TowerPart

FRAMES = 500  # of the blank sound: ten seconds
BIASED = "its positions are compared with two biases of one row per head, in no layer"
NORMED = "a norm runs over what its convolution gives, so that the channels which stay would change"
ADAPTED = "its adapter is as wide as its stream"
TURNED = "its positions turn the stream itself, head by head"
ATTENTION = AttentionPart(
    "self_attn.linear_q",
    "self_attn.linear_k",
    "self_attn.linear_v",
    "self_attn.linear_out",
    width="self_attn.head_size",
)
_CONVOLUTION = (
    LayerPart("conv_module.layer_norm", "norm", "conv"),
    LayerPart("conv_module.pointwise_conv1", "conv", "first", stream=(".", "")),
    LayerPart("conv_module.depthwise_conv", "conv", "depth"),
    LayerPart("conv_module.depthwise_layer_norm", "norm", "depth", stream=("", "")),
    LayerPart("conv_module.pointwise_conv2", "conv", "second", stream=("", ".")),
)


def declare_block(attention: AttentionPart) -> tuple[AnyPart, ...]:
    """One block: half a perceptron's sum, attention, convolution, the other half."""
    return (
        LayerPart("ffn1_layer_norm", "norm", "first"),
        MlpPart("ffn1.intermediate_dense", "ffn1.output_dense", branch="first"),
        LayerPart("self_attn_layer_norm", "norm", "attention"),
        attention,
        LayerPart("self_attn.linear_pos", "linear", "position"),
        LayerPart("self_attn.distance_embedding", "embedding", "position", stream=("", "")),
        *_CONVOLUTION,
        LayerPart("ffn2_layer_norm", "norm", "second"),
        MlpPart("ffn2.intermediate_dense", "ffn2.output_dense", branch="second"),
        LayerPart("final_layer_norm", "norm", "mlp"),
    )


def describe(module: nn.Module) -> Layout:
    """One tower."""
    config = config_of(module)
    kind = config.position_embeddings_type
    attention = replace(ATTENTION, width="", whole_heads=BIASED) if kind == "relative" else ATTENTION
    widths = {"rotary": TURNED, "relative": BIASED}.get(kind or "", "") or (ADAPTED if config.add_adapter else "")
    tower = TowerPart(
        "audio",
        "audio",
        root_of(module, "wav2vec2_bert"),
        stem=(
            LayerPart("feature_projection.layer_norm", "norm", "projector", stream=("", "")),
            LayerPart("feature_projection.projection", "projector", stream=("", ".")),
        ),
        blocks="encoder.layers",
        block=declare_block(attention),
        after=(LayerPart("lm_head", "head"), LayerPart("projector", "head", "hidden"), LayerPart("classifier", "head", stream=("", ""))),
        whole_tokens="a convolution runs over its frames in every block",
        whole_blocks=explain_fixed_blocks(module),
        free_parameters=("masked_spec_embed",),
        whole_width=widths or _explain_states(module),
    )
    return keep_units_whole(build_layout(module, [tower]), "audio", "channels", NORMED)


def _explain_states(module: nn.Module) -> str:
    fields = [output.field for output in wav2vec2.outputs(module)]
    return "the model hands out last_hidden_state, which must stay as wide as it is" if "last_hidden_state" in fields else ""


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`input_features` (batch, frames, values) and `attention_mask` int64 (batch, frames), padded to the longest."""
    return encoding.cast_floats(module, encoding.encode_audio(processors, loaded, padding=True))


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Audio (batch, frames); those that stand for padding are left out where there is a mask."""
    found = torch.full(batch["input_features"].shape[:2], encoding.AUDIO, device=batch["input_features"].device)
    mask = batch.get("attention_mask")
    return {"audio": found if mask is None else found.masked_fill(mask == 0, encoding.PADDING)}


def example(module: nn.Module) -> dict[str, Tensor]:
    """Ten seconds: `input_features` (1, frames, values)."""
    return {"input_features": encoding.make_zero_input(module, FRAMES, config_of(module).feature_projection_input_dim)}


FAMILY = Family(
    "wav2vec2-bert", ("wav2vec2-bert",), describe, wav2vec2.outputs, wav2vec2.modalities, encode, tokens, example
)  # fmt: skip

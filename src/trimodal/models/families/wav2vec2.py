"""Wav2Vec 2.0: convolutions over the waveform, then a Transformer. Baevski et al. 2020, arXiv 2006.11477. HuBERT has
the same parts, WavLM attention with gated positions besides: Chen et al. 2021, arXiv 2110.13900."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, explain_fixed_blocks, root_of
from trimodal.models.model import Batch, Family, LoadedSample, Output, Processors
from trimodal.models.parts import AnyPart, AttentionPart, LayerPart, MlpPart, TowerPart

ATTENTION = AttentionPart(
    "attention.q_proj",
    "attention.k_proj",
    "attention.v_proj",
    "attention.out_proj",
    width="attention.head_dim",
    heads=("attention.num_heads",),
)
GATED = "it gates the positions of each by a slice of its stream, as wide as one, so their number is fixed"
APART = "its attention goes by how far apart two frames stand, so none can take the place of two"
LENDS = "the first of its blocks holds the table of positions that all use"
GATED_ATTENTION = (
    LayerPart("attention.rel_attn_embed", "embedding", "position", stream=("", "")),
    LayerPart("attention.gru_rel_pos_linear", "linear", "position"),
    replace(ATTENTION, width="", heads=(), whole_heads=GATED),
)
NORM_1, NORM_2 = LayerPart("layer_norm", "norm", "attention"), LayerPart("final_layer_norm", "norm", "mlp")
MLP = MlpPart("feed_forward.intermediate_dense", "feed_forward.output_dense")
NORM_AFTER: tuple[AnyPart, ...] = (ATTENTION, NORM_1, MLP, NORM_2)
NORM_BEFORE: tuple[AnyPart, ...] = (NORM_1, ATTENTION, NORM_2, MLP)


def describe(module: nn.Module) -> Layout:
    """One tower. The convolution that stands for positions is normalised by weight, so it has no plain weight and is no
    site. Large models put the norms before what they feed (`do_stable_layer_norm`)."""
    stable, gated = bool(config_of(module).do_stable_layer_norm), config_of(module).model_type == "wavlm"
    block = NORM_BEFORE if stable else NORM_AFTER
    if gated:
        block = tuple(part for one in block for part in (GATED_ATTENTION if one is ATTENTION else (one,)))
    final = LayerPart("encoder.layer_norm", "norm", "final" if stable else "stem")
    convolutions = (
        LayerPart(f"feature_extractor.conv_layers.{i}.{name}", role, str(i))
        for i in range(len(config_of(module).conv_dim))
        for name, role in (("conv", "conv"), ("layer_norm", "norm"))
    )
    tower = TowerPart(
        "audio",
        "audio",
        root_of(module, "wav2vec2", "hubert", "wavlm"),
        stem=(
            *convolutions,
            LayerPart("feature_projection.layer_norm", "norm", "projector"),
            LayerPart("feature_projection.projection", "projector"),
            *(() if stable else (final,)),
        ),
        blocks="encoder.layers",
        block=block,
        head=(final,) if stable else (),
        after=(LayerPart("lm_head", "head"), LayerPart("projector", "head", "hidden"), LayerPart("classifier", "head")),
        whole_tokens=APART if gated else "",
        restored=True,  # scores are per frame, means are over those that the padding mask leaves
        whole_blocks=LENDS if gated else explain_fixed_blocks(module),
        whole_width="the convolution that stands for its positions works in groups of its dimensions",
    )
    return build_layout(module, [tower])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Scores per frame, class scores, or the mean state."""
    kind = type(module).__name__
    if kind.endswith("ForCTC"):
        return (Output("logits", "audio", "tokens"),)
    if kind.endswith("ForSequenceClassification"):
        return (Output("logits", "audio", "logits", label="label"),)
    if kind.endswith("Model"):
        return (Output("last_hidden_state", "audio", "embedding", pool="mean"),)
    return (Output("logits", "audio", "embedding"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Audio only."""
    return ("audio",)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`input_values` (batch, samples) at the extractor's rate, padded, and `attention_mask` if the model wants one."""
    return encoding.cast_floats(module, encoding.encode_audio(processors, loaded, padding=True))


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Audio (batch, frames); those that stand for padding are left out where there is a mask."""
    frames = int(_count_frames(module, torch.tensor(batch["input_values"].shape[1])))
    found = torch.full((batch["input_values"].shape[0], frames), encoding.AUDIO)
    if "attention_mask" in batch:
        real = _count_frames(module, batch["attention_mask"].sum(dim=1).cpu())
        found = found.masked_fill(torch.arange(frames)[None, :] >= real[:, None], encoding.PADDING)
    return {"audio": found.to(batch["input_values"].device)}


def example(module: nn.Module) -> dict[str, Tensor]:
    """Ten seconds at 16 kHz: `input_values` (1, 160000)."""
    return {"input_values": encoding.make_zero_input(module, 160_000)}


def _count_frames(module: nn.Module, samples: Tensor) -> Tensor:
    """How many frames the convolutions make of so many samples."""
    config = config_of(module)
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


FAMILY = Family("wav2vec2", ("wav2vec2", "hubert", "wavlm"), describe, outputs, modalities, encode, tokens, example)

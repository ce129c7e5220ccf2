"""Whisper: an audio encoder and a text decoder that attends to it. Radford et al. 2022, arXiv 2212.04356."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, explain_fixed_blocks, explain_fixed_width, root_of
from trimodal.models.model import Batch, Family, LoadedSample, Output, Processors
from trimodal.models.parts import OWN, AttentionPart, LayerPart, MlpPart, TowerPart


def declare_attention(path: str, branch: str = "") -> tuple[LayerPart, AttentionPart]:
    """The attention at `path` and the norm before it."""
    return (
        LayerPart(f"{path}_layer_norm", "norm", branch or "attention"),
        AttentionPart(
            f"{path}.q_proj",
            f"{path}.k_proj",
            f"{path}.v_proj",
            f"{path}.out_proj",
            width=f"{path}.head_dim",
            heads=(f"{path}.num_heads",),
            branch=branch,
            memory="audio" if branch else OWN,
        ),
    )


MLP = (LayerPart("final_layer_norm", "norm", "mlp"), MlpPart("fc1", "fc2"))


def declare_encoder(root: str, pooled_by_mean: bool = False, whole_blocks: str = "") -> TowerPart:
    """The audio encoder; with the head of the classes that classify audio, by the mean of all frames. A decoder takes
    any number of frames."""
    return TowerPart(
        "audio",
        "audio",
        root,
        stem=(
            LayerPart("conv1", "conv", "1"),
            LayerPart("conv2", "conv", "2", stream=("", OWN)),
            LayerPart("embed_positions", "embedding", "position"),
        ),
        blocks="layers",
        block=(*declare_attention("self_attn"), *MLP),
        head=(LayerPart("layer_norm", "norm", "final"),),
        after=(LayerPart("projector", "projector"), LayerPart("classifier", "head", stream=("", ""))),
        whole_tokens="",
        restored=pooled_by_mean,
        whole_blocks=whole_blocks,
        counted="encoder_layers",
        whole_width="",
    )


def declare_decoder(root: str, whole_width: str = "") -> TowerPart:
    """The text decoder. `proj_out` uses the token embedding's weight."""
    return TowerPart(
        "text",
        "text",
        root,
        stem=(LayerPart("embed_tokens", "embedding"), LayerPart("embed_positions", "embedding", "position")),
        blocks="layers",
        block=(*declare_attention("self_attn"), *declare_attention("encoder_attn", "cross"), *MLP),
        head=(LayerPart("layer_norm", "norm", "final"),),
        after=(LayerPart("proj_out", "head"),),
        counted="decoder_layers",
        whole_width=whole_width,
    )


def describe(module: nn.Module) -> Layout:
    """The encoder, then the decoder where the class has one."""
    pooled = hasattr(module, "classifier")
    towers = [declare_encoder(root_of(module, "model.encoder", "encoder"), pooled, explain_fixed_blocks(module))]
    if _has_decoder(module):
        whole_width = explain_fixed_width(output.field for output in outputs(module))
        towers.append(declare_decoder(root_of(module, "model.decoder", "decoder"), whole_width))
    return build_layout(module, towers)


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Scores of the next token, class scores, or the decoder's states."""
    if hasattr(module, "proj_out"):
        return (Output("logits", "text", "tokens", mask="decoder_attention_mask"),)
    if hasattr(module, "classifier"):
        return (Output("logits", "audio", "logits", label="label"),)
    return (Output("last_hidden_state", "text", "embedding", pool="mean", mask="decoder_attention_mask"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Audio; and text, which is what the decoder is to say."""
    return ("audio", "text") if _has_decoder(module) else ("audio",)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`input_features` (batch, mels, frames), padded to the full window, with the `attention_mask` of what is sound, and
    `decoder_input_ids` with their mask: the start token and the target, or the text, of each sample."""
    found = encoding.encode_audio(processors, loaded, return_attention_mask=True)
    batch = {name: found[name] for name in ("input_features", "attention_mask")}
    if _has_decoder(module):
        config = config_of(module)
        start, end, limit = config.decoder_start_token_id, config.eos_token_id, int(config.max_target_positions)
        rows = encoding.make_decoder_rows(processors, loaded, start, end, limit)
        ids, mask = encoding.pad_token_rows(rows, int(config.pad_token_id))
        batch |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    return encoding.cast_floats(module, batch)


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The encoder's (batch, frames), and with them keys and values of the cross-attention, are audio, the silence that fills the
    window left out; the decoder's (batch, tokens) are text."""
    frames = (batch["input_features"].shape[-1] + 1) // 2  # the second convolution has stride 2
    audio = torch.full((batch["input_features"].shape[0], frames), encoding.AUDIO)
    audio = audio.to(batch["input_features"].device)
    if "attention_mask" in batch:
        audio = audio.masked_fill(batch["attention_mask"][:, ::2] == 0, encoding.PADDING)
    if "decoder_input_ids" not in batch:
        return {"audio": audio}
    text = encoding.mark_text_tokens(batch, "decoder_input_ids", "decoder_attention_mask")
    return {"audio": audio, "text": text, "text.cross": audio}


def example(module: nn.Module) -> dict[str, Tensor]:
    """One full window of sound (30 seconds), (1, mels, frames), and 128 tokens that are said, (1, tokens)."""
    config = config_of(module)
    window = 2 * int(config.max_source_positions)
    batch = {"input_features": encoding.make_zero_input(module, config.num_mel_bins, window)}
    if _has_decoder(module):
        said = encoding.make_blank_text(module, min(encoding.USUAL_TOKENS, config.max_target_positions))
        batch |= {f"decoder_{name}": value for name, value in said.items()}
    return batch


def _has_decoder(module: nn.Module) -> bool:
    return bool(root_of(module, "model.decoder", "decoder"))


FAMILY = Family("whisper", ("whisper",), describe, outputs, modalities, encode, tokens, example)

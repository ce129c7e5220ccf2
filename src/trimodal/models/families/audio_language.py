"""Qwen2-Audio and Qwen2.5-Omni: Whisper's encoder, a projector, and Qwen2's decoder; Omni sees as well, with the vision tower of
Qwen2.5-VL. Chu et al. 2024, arXiv 2407.10759; Xu et al. 2025, arXiv 2503.20215."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import config_of, root_of
from trimodal.models.families import qwen_vl, whisper
from trimodal.models.families import vision_language as pairs
from trimodal.models.families.prompts import finish_batch, spell_token, tokenize_prompts, write_prompts
from trimodal.models.model import Batch, Family, LoadedSample, Processors
from trimodal.models.parts import AttentionPart, LayerPart, TowerPart

AROUND = ("audio_start_token_id", "audio_token_id", "audio_end_token_id")
BEFORE, AFTER = "<|audio_bos|>", "<|audio_eos|>"
FRAMES = "the text has one placeholder for every two frames, so their number is fixed"
WAVES = "its positions are waves that were worked out for this width and stand in no layer"
MEL_FRAMES = 1000  # of the blank sound: ten seconds
VISION_ATTENTION = AttentionPart("attn.q", "attn.k", "attn.v", "attn.proj", width="attn.head_dim", heads=("attn.num_heads",))


def declare_audio(root: str, **changes: Any) -> TowerPart:
    """Whisper's encoder at `root` as part of a larger model; `changes` are other fields of the part."""
    return replace(whisper.declare_encoder(root), **{"after": (), "whole_tokens": FRAMES, **changes})


def describe_audio(module: nn.Module) -> Layout:
    """Qwen2-Audio: words, audio encoder (`audio`), projector (`fusion`), decoder (`text`)."""
    inner = "model." if root_of(module, "model") else ""
    line = LayerPart("multi_modal_projector.linear", "projector", stream=("audio", "text"))
    fusion = TowerPart("fusion", "fusion", inner.strip("."), head=(line,))
    words = f"{inner}language_model"
    reading = pairs.let_read(f"{inner}multi_modal_projector", words, placeholder="audio_token_id")
    return pairs.build_around_decoder(module, words, [declare_audio(f"{inner}audio_tower", **reading), fusion])


def describe_omni(module: nn.Module) -> Layout:
    """Qwen2.5-Omni's thinker: words, audio encoder (`audio`), vision tower (`image`), projectors of both (`fusion`), decoder
    (`text`)."""
    inner = "model." if root_of(module, "model") else ""
    heard, seen = f"{inner}audio_tower", f"{inner}visual"
    final = (LayerPart("ln_post", "norm", "final"),)
    block = (qwen_vl.BLOCK[0], VISION_ATTENTION, *qwen_vl.BLOCK[2:])
    hearing = TowerPart(
        "fusion", "fusion", heard,
        head=(
            LayerPart("proj", "projector", "audio", stream=("", "text")),
            LayerPart("audio_bos_eos_token", "embedding", stream=("", "text")),
        ),
    )  # fmt: skip
    pieces = [
        declare_audio(heard, head=final, whole_width=WAVES),
        hearing,
        replace(qwen_vl.declare_vision_tower(seen, "qwen2_5_vl"), block=block),
        TowerPart("fusion", "fusion", seen, head=qwen_vl.declare_merger("merger")),
    ]
    return pairs.build_around_decoder(module, root_of(module, f"{inner}language_model", inner.strip(".")), pieces)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Audio and text; Omni's are all three."""
    return ("image", "audio", "text") if hasattr(config_of(module), "vision_config") else ("audio", "text")


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`input_features` (batch, mels, frames) with `feature_attention_mask` (batch, frames), for Omni also `pixel_values` (patches,
    values) with `image_grid_thw` int64 (batch, 3), those of the two that all samples hold; `input_ids`, `attention_mask`, and with
    targets `labels`, all (batch, tokens). Made of the parts of the processor: Omni's holds one for videos too, which needs
    torchvision."""
    held = [m for m in modalities(module) if all(getattr(sample, m) is not None for sample in loaded)]
    encoding.require_modalities(loaded, "text", *(() if {"image", "audio"} & {*held} else ("audio",)))
    config, found = config_of(module), dict[str, Tensor]()
    prompts = write_prompts(loaded, "")
    if "audio" in held:
        found |= _encode_sounds(processors, loaded)
        counts, audio = _count_audio_tokens(found["feature_attention_mask"]), spell_token(processors, config, "audio_token_id")
        prompts = _put_in_front(prompts, audio, _spell_sound(processors, config, audio), counts)
    if "image" in held:
        pixels, counts = qwen_vl.encode_grids(processors, loaded)
        around = spell_token(processors, config, *qwen_vl.AROUND)
        prompts = _put_in_front(prompts, spell_token(processors, config, "image_token_id"), around, counts)
        found |= pixels
    return finish_batch(module, processors, loaded, {**found, **tokenize_prompts(processors, prompts)})


def _put_in_front(prompts: Sequence[str], token: str, around: str, counts: Sequence[int]) -> list[str]:
    """Each prompt with `token` as often as `counts` says where it stands, else in front with what goes `around` it."""
    held = [prompt if token in prompt else f"{around}\n{prompt}" for prompt in prompts]
    return [prompt.replace(token, token * n, 1) for prompt, n in zip(held, counts, strict=True)]


def _spell_sound(processors: Processors, config: Any, audio: str) -> str:
    """The token for audio and what goes around it: those that the configuration names, or else Qwen2-Audio's, if the tokenizer knows
    them."""
    if getattr(config, AROUND[0], None) is not None:
        return spell_token(processors, config, *AROUND)
    known = encoding.get_processor(processors, "text").get_vocab()
    return f"{BEFORE}{audio}{AFTER}" if {BEFORE, AFTER} <= known.keys() else audio


def _encode_sounds(processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    found = encoding.encode_audio(processors, loaded, return_attention_mask=True, padding="max_length")
    return {"input_features": found["input_features"], "feature_attention_mask": found["attention_mask"]}


def _count_audio_tokens(mask: Tensor) -> list[int]:
    """How many tokens the encoder makes of each sound, of which `mask` (batch, frames) marks the frames: a convolution and an average
    each take two for one."""
    return [((int(frames) - 1) // 2 + 1 - 2) // 2 + 1 for frames in mask.sum(dim=1)]


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The decoder's stream (batch, tokens), as for all such models; the encoder's (batch, frames) of Qwen2-Audio are audio, the silence
    that fills the window left out."""
    found = pairs.tokens(module, batch)
    if "input_features" in batch and not hasattr(config_of(module), "vision_config"):
        found["audio"] = whisper.tokens(
            module, {"input_features": batch["input_features"], "attention_mask": batch["feature_attention_mask"]}
        )["audio"]
    return found


def example(module: nn.Module) -> dict[str, Tensor]:
    """One full window of sound (1, mels, frames), for Omni ten seconds and an image, and a text of 128 tokens behind them, (1, tokens)."""
    config, audio = config_of(module), config_of(module).audio_config
    omni = hasattr(config, "vision_config")
    frames = min(MEL_FRAMES, 2 * audio.max_source_positions) if omni else 2 * audio.max_source_positions
    sound = encoding.make_zero_input(module, audio.num_mel_bins, frames)
    mask = torch.ones(1, frames, dtype=torch.long, device=sound.device)
    images = qwen_vl.make_blank_patches(module) if omni else {}
    patches = len(images["pixel_values"]) // config.vision_config.spatial_merge_size**2 if omni else 0
    batch = pairs.make_blank_prompt(module, patches, _count_audio_tokens(mask)[0])
    return {**batch, **images, "input_features": sound, "feature_attention_mask": mask}


AUDIO_FAMILY = Family(
    "qwen2-audio", ("qwen2_audio",), describe_audio, pairs.outputs, modalities, encode, tokens, example, fits=pairs.knows_decoder
)  # fmt: skip
OMNI_FAMILY = Family(
    "qwen2.5-omni", ("qwen2_5_omni_thinker",), describe_omni, pairs.outputs, modalities, encode, tokens, example, fits=pairs.knows_decoder
)  # fmt: skip

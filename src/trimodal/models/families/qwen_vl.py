"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: a vision Transformer over patches of images of any size, of which four become one token of
the decoder. Wang et al. 2024, arXiv 2409.12191; Bai et al. 2025, arXiv 2502.13923."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import config_of, root_of
from trimodal.models.families import vision_language as pairs
from trimodal.models.families.prompts import (
    finish_batch,
    mark_placeholders,
    spell_token,
    tokenize_prompts,
    write_prompts,
)
from trimodal.models.model import Family, LoadedSample, Processors
from trimodal.models.parts import AnyPart, AttentionPart, LayerPart, MlpPart, TowerPart

AROUND = ("vision_start_token_id", "image_token_id", "vision_end_token_id")
JOINED = "neighbouring patches are joined side by side in the merger, which counts on the width of each"
_READ = "its configuration names the blocks that the decoder reads by their numbers (deepstack_visual_indexes)"
NUMBERED = {
    "qwen2_5_vl": "its configuration names the blocks that see whole images by their numbers (fullatt_block_indexes)",
    "qwen3_vl": _READ,
    "qwen3_vl_moe": _READ,
}
ADDED = "to its first blocks the vision tower adds what it saw, block by block"
SIDE = 224  # of the blank image, in pixels
# The perceptrons are called otherwise in each of the three.
BLOCK: tuple[AnyPart, ...] = (
    LayerPart("norm1", "norm", "attention"),
    AttentionPart("attn.qkv", "attn.qkv", "attn.qkv", "attn.proj", width="attn.head_dim", heads=("attn.num_heads",)),
    LayerPart("norm2", "norm", "mlp"),
    MlpPart("mlp.fc1", "mlp.fc2"),
    MlpPart("mlp.linear_fc1", "mlp.linear_fc2"),
    MlpPart("mlp.up_proj", "mlp.down_proj", gate="mlp.gate_proj"),
)


def declare_vision_tower(root: str, kind: str) -> TowerPart:
    """The tower at `root` of a model of the type `kind`, without its merger."""
    return TowerPart(
        "image",
        "image",
        root,
        stem=(LayerPart("patch_embed.proj", "patch"), LayerPart("pos_embed", "embedding", "position")),
        blocks="blocks",
        block=BLOCK,
        whole_tokens=pairs.PLACEHOLDERS,
        whole_blocks=NUMBERED.get(kind, ""),
        counted="depth",
        whole_width=JOINED,
    )


def declare_merger(root: str, branch: str = "") -> tuple[AnyPart, ...]:
    """The merger at `root`: a norm and a perceptron, whose layers have two sets of names."""
    ends: dict[str, Any] = {"roles": ("projector", "projector"), "stream": ("", "text"), "branch": branch}
    return (
        *(LayerPart(f"{root}.{name}", "norm", f"{branch}.projector".strip("."), stream=("", "")) for name in ("ln_q", "norm")),
        MlpPart(f"{root}.mlp.0", f"{root}.mlp.2", **ends),
        MlpPart(f"{root}.linear_fc1", f"{root}.linear_fc2", **ends),
    )


def describe(module: nn.Module) -> Layout:
    """Words, vision tower (`image`), mergers (`fusion`), decoder (`text`). Qwen3-VL's further mergers run between the vision
    tower's blocks; they read them and nothing of the tower reads them, so they stand behind it."""
    inner, kind = "model." if root_of(module, "model") else "", config_of(module).model_type
    seen = f"{inner}visual"
    deep = range(len(getattr(config_of(module).vision_config, "deepstack_visual_indexes", ())))
    mergers = [part for n in deep for part in declare_merger(f"deepstack_merger_list.{n}", f"deep{n}")]
    fusion = TowerPart("fusion", "fusion", seen, head=(*mergers, *declare_merger("merger")))
    changes = {"whole_blocks": ADDED} if deep else {}
    return pairs.build_pair(module, f"{inner}language_model", declare_vision_tower(seen, kind), fusion, **changes)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (patches of all images, channels · frames · side²), `image_grid_thw` int64 (batch, 3), `input_ids`,
    `mm_token_type_ids` (1 for images), `attention_mask`, and with targets `labels`, all (batch, tokens). Made of the image
    processor and the tokenizer: the whole processor holds one for videos too, which needs torchvision."""
    encoding.require_modalities(loaded, "image", "text")
    config = config_of(module)
    pixels, counts = encode_grids(processors, loaded)
    image = spell_token(processors, config, "image_token_id")
    prompts = write_prompts(loaded, spell_token(processors, config, *AROUND))
    words = tokenize_prompts(processors, [p.replace(image, image * n, 1) for p, n in zip(prompts, counts, strict=True)])
    kinds = mark_placeholders(words["input_ids"], int(config.image_token_id))
    return finish_batch(module, processors, loaded, {**pixels, **words, "mm_token_type_ids": kinds})


def encode_grids(processors: Processors, loaded: Sequence[LoadedSample]) -> tuple[dict[str, Tensor], list[int]]:
    """`pixel_values` (patches, values) and `image_grid_thw` int64 (images, 3); how many placeholders each image takes."""
    processor = encoding.get_processor(processors, "image")
    found = processor(images=[sample.image for sample in loaded], return_tensors="pt")
    counts = found["image_grid_thw"].prod(dim=1) // processor.merge_size**2
    return {name: found[name] for name in ("pixel_values", "image_grid_thw")}, [int(n) for n in counts]


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image of 224 × 224 pixels as patches (patches, values), and a text of 128 tokens behind its tokens (1, tokens)."""
    config = config_of(module)
    images = make_blank_patches(module)
    batch = pairs.make_blank_prompt(module, len(images["pixel_values"]) // config.vision_config.spatial_merge_size**2)
    return {**batch, **images, "mm_token_type_ids": mark_placeholders(batch["input_ids"], int(config.image_token_id))}


def make_blank_patches(module: nn.Module) -> dict[str, Tensor]:
    """`pixel_values` (patches, values) of one black image, in the module's type, and `image_grid_thw` int64 (1, 3)."""
    vision = config_of(module).vision_config
    unit = vision.patch_size * vision.spatial_merge_size
    side = max(1, SIDE // unit) * vision.spatial_merge_size
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = encoding.make_zero_input(module, side * side, values)[0]
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, side, side]], device=pixels.device)}


MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
FAMILY = Family(
    "qwen-vl", MODEL_TYPES, describe, pairs.outputs, pairs.modalities, encode, pairs.tokens, example, fits=pairs.knows_decoder
)  # fmt: skip

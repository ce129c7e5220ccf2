"""LLaVA-NeXT and LLaVA-OneVision: LLaVA that looks at an image whole and in pieces, and ends every row of patches with a learnt token.
Liu et al. 2024; Li et al. 2024, arXiv 2408.03326."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.image_processing_utils import select_best_resolution

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import config_of, root_of
from trimodal.models.families import llava
from trimodal.models.families import vision_language as pairs
from trimodal.models.families.prompts import finish_batch, spell_token, tokenize_prompts, write_prompts
from trimodal.models.model import Family, LoadedSample, Processors
from trimodal.models.parts import TowerPart


def describe(module: nn.Module) -> Layout:
    """Words, vision tower (`image`), projector (`fusion`), decoder (`text`). The token at the end of a row is a plain parameter, as
    wide as the decoder."""
    inner = "model." if root_of(module, "model") else ""
    words, projector = f"{inner}language_model", f"{inner}multi_modal_projector"
    reading = pairs.let_read(projector, words)
    vision = pairs.declare_vision(module, f"{inner}vision_tower", read_by="vision_feature_layer", **reading)
    fusion = llava.declare_projector(projector)
    newline = TowerPart("text", "text", inner.strip("."), free_parameters=("image_newline",))
    return pairs.build_pair(module, words, vision, fusion, newline)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, pieces, channels, height, width) with `image_sizes` int64 (batch, 2), `input_ids`, `attention_mask`, and
    with targets `labels`, all (batch, tokens). Made of the image processor and the tokenizer: OneVision's whole processor holds one
    for videos too, which needs torchvision."""
    encoding.require_modalities(loaded, "image", "text")
    found = encoding.get_processor(processors, "image")(images=[sample.image for sample in loaded], return_tensors="pt")
    image = spell_token(processors, config_of(module), "image_token_id")
    counts = count_image_tokens(module, found["image_sizes"])
    prompts = [p.replace(image, image * n, 1) for p, n in zip(write_prompts(loaded, image), counts, strict=True)]
    return finish_batch(module, processors, loaded, {**found, **tokenize_prompts(processors, prompts)})


def count_image_tokens(module: nn.Module, sizes: Tensor) -> list[int]:
    """For each image of `sizes` int64 (images, 2), height and width in pixels, how many tokens the model makes of it: the model's own
    packing, tried on features one dimension wide."""
    config = config_of(module)
    inner: Any = module.get_submodule(root_of(module, "model"))
    vision, strategy = config.vision_config, config.vision_feature_select_strategy
    patches = (vision.image_size // vision.patch_size) ** 2
    pieces = []
    for size in sizes.tolist():
        height, width = select_best_resolution(size, config.image_grid_pinpoints)
        pieces.append(1 + (height // vision.image_size) * (width // vision.image_size))
    options = {"vision_feature_select_strategy": strategy, "vision_aspect_ratio": getattr(config, "vision_aspect_ratio", None)}
    taken = inspect.signature(inner.pack_image_features).parameters
    given = {name: value for name, value in options.items() if name in taken}
    features = [torch.zeros(count, patches, 1) for count in pieces]
    return [int(n) for n in inner.pack_image_features(features, sizes.cpu(), image_newline=torch.zeros(1), **given)[1]]


def example(module: nn.Module) -> dict[str, Tensor]:
    """One square image (1, pieces, channels, height, width) with `image_sizes` int64 (1, 2), and a text of 128 tokens behind it,
    (1, tokens)."""
    config, vision = config_of(module), config_of(module).vision_config
    side = int(vision.image_size)
    sizes = torch.tensor([[side, side]])
    height, width = select_best_resolution((side, side), config.image_grid_pinpoints)
    pieces = 1 + (height // side) * (width // side)
    batch = pairs.make_blank_prompt(module, count_image_tokens(module, sizes)[0])
    pixels = encoding.make_zero_input(module, pieces, vision.num_channels, side, side)
    return {**batch, "pixel_values": pixels, "image_sizes": sizes.to(pixels.device)}


FAMILY = Family(
    "llava-next", ("llava_next", "llava_onevision"), describe, pairs.outputs, pairs.modalities, encode, pairs.tokens, example,
    fits=pairs.fits,
)  # fmt: skip

"""Idefics3 and SmolVLM: a SigLIP tower over pieces of an image, of which squares of patches are joined and projected, and a Llama
decoder. Laurençon et al. 2024, arXiv 2408.12637; Marafioti et al. 2025, arXiv 2504.05299."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import config_of, root_of
from trimodal.models.families import vision_language as pairs
from trimodal.models.families.prompts import encode_prompts
from trimodal.models.model import Family, LoadedSample, Processors
from trimodal.models.parts import LayerPart, TowerPart

JOINED = "its projector reads squares of patches side by side, each as wide as the stream"


def describe(module: nn.Module) -> Layout:
    """Words, vision tower (`image`), projector (`fusion`), decoder (`text`)."""
    inner = "model." if root_of(module, "model") else ""
    line = LayerPart("connector.modality_projection.proj", "projector", stream=("", "text"))
    fusion = TowerPart("fusion", "fusion", inner.strip("."), head=(line,))
    vision = pairs.declare_vision(module, f"{inner}vision_model", whole_width=JOINED)
    return pairs.build_pair(module, f"{inner}text_model", vision, fusion)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, pieces, channels, height, width) with `pixel_attention_mask` (batch, pieces, height, width), `input_ids`,
    `attention_mask`, and with targets `labels`, all (batch, tokens). SmolVLM's processor holds one for videos, which needs
    torchvision."""
    return encode_prompts(module, processors, loaded, lambda processor: processor.image_token)


def example(module: nn.Module) -> dict[str, Tensor]:
    """One white image in one piece (1, 1, channels, height, width), as a black one counts as padding, and a text of 128 tokens behind it,
    (1, tokens)."""
    config, vision = config_of(module), config_of(module).vision_config
    side = vision.image_size // vision.patch_size
    batch = pairs.make_blank_prompt(module, side * side // config.scale_factor**2)
    pixels = encoding.make_blank_image(module, vision.num_channels, vision.image_size)
    return batch | {"pixel_values": pixels["pixel_values"][:, None] + 1}


FAMILY = Family(
    "idefics3", ("idefics3", "smolvlm"), describe, pairs.outputs, pairs.modalities, encode, pairs.tokens, example, covers=pairs.covers
)  # fmt: skip

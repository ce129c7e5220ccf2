"""Gemma 3: a SigLIP tower whose patches are averaged into a few tokens, and a decoder with four norms to a block. Gemma Team
2025, arXiv 2503.19786."""

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

BARE = "its projector is a bare matrix, multiplied without a layer, of which rows cannot be cut"


def describe(module: nn.Module) -> Layout:
    """Words, vision tower (`image`), projector (`fusion`), decoder (`text`). The projector's matrix is a plain parameter:
    its columns are cut with the decoder's width."""
    inner = "model." if root_of(module, "model") else ""
    projector = f"{inner}multi_modal_projector"
    words = f"{inner}language_model"
    vision = pairs.declare_vision(module, f"{inner}vision_tower", whole_width=BARE, **pairs.let_read(projector, words))
    fusion = TowerPart("fusion", "fusion", projector, head=(LayerPart("mm_soft_emb_norm", "norm", "projector", stream=("", "")),))
    columns = TowerPart("text", "text", projector, free_parameters=("mm_input_projection_weight",))
    return pairs.build_pair(module, words, vision, fusion, columns)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width), `input_ids`, `token_type_ids` (1 for images), `attention_mask`, and with
    targets `labels`, all (batch, tokens)."""
    return encode_prompts(module, processors, loaded, lambda processor: processor.boi_token)


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image (1, channels, height, width) and a text of 128 tokens behind it, (1, patches + tokens)."""
    config = config_of(module)
    batch = pairs.make_blank_prompt(module, int(config.mm_tokens_per_image))
    batch["token_type_ids"] = (batch["input_ids"] == int(config.image_token_id)).long()
    vision = config.vision_config
    return batch | encoding.make_blank_image(module, vision.num_channels, *encoding.height_and_width(vision.image_size))


FAMILY = Family(
    "gemma3", ("gemma3",), describe, pairs.outputs, pairs.modalities, encode, pairs.tokens, example, fits=pairs.fits
)  # fmt: skip

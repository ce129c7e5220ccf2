"""PaliGemma: a SigLIP tower, one linear layer, and a Gemma decoder that reads image and prompt in both directions. Beyer et al. 2024,
arXiv 2407.07726; PaliGemma 2: Steiner et al. 2024, arXiv 2412.03555."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import config_of, root_of
from trimodal.models.families import vision_language as pairs
from trimodal.models.families.prompts import finish_batch
from trimodal.models.model import Family, LoadedSample, Processors
from trimodal.models.parts import LayerPart, TowerPart
from trimodal.models.transformers_models.encode import encode_for_forward


def describe(module: nn.Module) -> Layout:
    """Words, vision tower (`image`), projector (`fusion`), decoder (`text`)."""
    inner = "model." if root_of(module, "model") else ""
    line = LayerPart("multi_modal_projector.linear", "projector", stream=("image", "text"))
    fusion = TowerPart("fusion", "fusion", inner.strip("."), head=(line,))
    words = f"{inner}language_model"
    vision = pairs.declare_vision(module, f"{inner}vision_tower", **pairs.let_read(f"{inner}multi_modal_projector", words))
    return pairs.build_pair(module, words, vision, fusion)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width), `input_ids`, `attention_mask`, `token_type_ids` (1 for the answer, which is read
    forwards only), and with targets `labels`, all (batch, tokens). The target is the suffix that the processor takes."""
    encoding.require_modalities(loaded, "image", "text")
    if processors.whole is None:  # the folder has the parts alone
        return encode_for_forward(module, processors, loaded)
    processor = encoding.get_processor(processors, "whole")
    prompts = [f"{processor.image_token}{sample.text}" for sample in loaded]
    answers: dict[str, Any] = {"suffix": [sample.target or "" for sample in loaded]} if any(s.target for s in loaded) else {}
    images = [sample.image for sample in loaded]
    found = processor(images=images, text=prompts, padding=True, padding_side="right", return_tensors="pt", **answers)
    batch = finish_batch(module, processors, [], found)
    if answers and hasattr(module, "lm_head"):
        batch["labels"] = torch.where(batch["attention_mask"] == 1, found["labels"], encoding.NO_LABEL)
    return batch


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image (1, channels, height, width) and a text of 128 tokens behind it, (1, patches + tokens)."""
    vision = config_of(module).vision_config
    height, width = encoding.height_and_width(vision.image_size)
    batch = pairs.make_blank_prompt(module, (height // vision.patch_size) * (width // vision.patch_size))
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    return batch | encoding.make_blank_image(module, vision.num_channels, height, width)


FAMILY = Family(
    "paligemma", ("paligemma",), describe, pairs.outputs, pairs.modalities, encode, pairs.tokens, example, fits=pairs.fits
)  # fmt: skip

"""LLaVA: a vision tower whose patches a projector turns into tokens of a language model. Liu et al. 2023,
arXiv 2304.08485. Vision tower and decoder are those of their own families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import config_of, root_of
from trimodal.models.families import vision_language as pairs
from trimodal.models.model import Family, LoadedSample, Processors
from trimodal.models.parts import MlpPart, TowerPart
from trimodal.models.transformers_models.encode import encode_for_forward


def declare_projector(root: str) -> TowerPart:
    """The two layers at `root`, from the vision tower's stream to the decoder's."""
    layers = MlpPart("linear_1", "linear_2", roles=("projector", "projector"), stream=("image", "text"))
    return TowerPart("fusion", "fusion", root, head=(layers,))


def describe(module: nn.Module) -> Layout:
    """Words are embedded first; then vision tower (`image`), projector (`fusion`), decoder (`text`)."""
    inner = _inner_of(module)
    words, projector = f"{inner}language_model", f"{inner}multi_modal_projector"
    classes = pairs.declare_vision(module, f"{inner}vision_tower").protected
    vision = pairs.declare_vision(
        module, f"{inner}vision_tower", read_by="vision_feature_layer", whole_tokens=f"{pairs.PLACEHOLDERS}; prune.tokens removes both",
        **pairs.let_read(projector, words, _count_handed_tokens(config_of(module), classes)),
    )  # fmt: skip
    return pairs.build_pair(module, words, vision, declare_projector(projector))


def _inner_of(module: nn.Module) -> str:
    """What paths into the model without its head begin with."""
    return "model." if root_of(module, "model") else ""


def _count_handed_tokens(config: Any, classes: int) -> int:
    """How many tokens of an image become words: a patch each, and the class token, if there are `classes` of them, unless the first token
    is left out."""
    height, width = encoding.height_and_width(config.vision_config.image_size)
    patch = int(config.vision_config.patch_size)
    left_out = int(config.vision_feature_select_strategy == "default")
    return (height // patch) * (width // patch) + classes - left_out


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width), `input_ids`, `attention_mask`, and with targets `labels`, all (batch,
    tokens). The prompt is the text, followed by the target if there is one; the processor puts as many image tokens as there
    are patches where it says `<image>`, by default at its start."""
    encoding.require_modalities(loaded, "image", "text")
    if processors.whole is None:  # the folder has the parts alone
        return encode_for_forward(module, processors, loaded)
    processor = encoding.get_processor(processors, "whole")
    image = processor.image_token
    prompts = [" ".join(part for part in (sample.text, sample.target) if part) for sample in loaded]
    prompts = [prompt if image in prompt else f"{image}\n{prompt}" for prompt in prompts]
    images = [sample.image for sample in loaded]
    found = processor(images=images, text=prompts, padding=True, padding_side="right", return_tensors="pt")
    batch = {name: found[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    if hasattr(module, "lm_head"):
        batch |= encoding.make_answer_labels(processors, loaded, batch["input_ids"], batch["attention_mask"])
    return encoding.cast_floats(module, batch)


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image (1, channels, height, width) and a text of 128 tokens behind it, (1, patches + tokens)."""
    config = config_of(module)
    vision, patches = config.vision_config, int(config.image_seq_length)
    batch = encoding.make_blank_text(module, patches + encoding.USUAL_TOKENS)
    batch["input_ids"][:, :patches] = int(config.image_token_id)
    return batch | encoding.make_blank_image(module, vision.num_channels, *encoding.height_and_width(vision.image_size))


FAMILY = Family(
    "llava", ("llava",), describe, pairs.outputs, pairs.modalities, encode, pairs.tokens, example, fits=pairs.fits
)  # fmt: skip

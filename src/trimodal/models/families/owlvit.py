"""OWL-ViT and OWLv2: CLIP's two towers, whose patches are compared with the words of things to find. Minderer et al. 2022,
arXiv 2205.06230; Minderer et al. 2023, arXiv 2306.09683."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, root_of
from trimodal.models.families import clip
from trimodal.models.model import Family, LoadedSample, Output, Processors
from trimodal.models.parts import LayerPart, TowerPart

TWICE = "each patch is multiplied with the class token, dimension by dimension, and read by several heads"
FOUND = "each of its patches may become a box"
SHARED = "its projection meets what the image's heads make of their own width"
_HEADS = (
    ("layer_norm", "norm", "found"),
    ("class_head.dense0", "head", "class"),
    ("class_head.logit_shift", "head", "class.shift"),
    ("class_head.logit_scale", "head", "class.scale"),
    *((f"objectness_head.dense{n}", "head", f"objectness.{n}") for n in range(3)),
    *((f"box_head.dense{n}", "head", f"box.{n}") for n in range(3)),
)


def describe(module: nn.Module) -> Layout:
    """Vision runs before text, then both are projected; the heads for classes and boxes read the image's patches."""
    inner = f"{found}." if (found := root_of(module, "owlvit", "owlv2")) else ""
    words = clip.declare_text_tower(root_of(module, f"{inner}text_model"), SHARED)
    image = clip.declare_vision_tower(root_of(module, f"{inner}vision_model"), whole_width=TWICE)
    towers = {
        "image": replace(image, stem=(*image.stem, LayerPart("pre_layernorm", "norm", "stem")), after=(), whole_tokens=FOUND),
        "text": replace(words, after=()),
    }
    heads = tuple(LayerPart(path, role, branch) for path, role, branch in _HEADS)
    behind = (
        TowerPart("text", "text", "", after=(LayerPart(f"{inner}text_projection", "projector"),)),
        TowerPart("image", "image", "", after=(LayerPart(f"{inner}visual_projection", "projector"), *heads)),
    )
    return build_layout(module, [*(towers[m] for m in clip.modalities(module)), *(p for p in behind if p.name in clip.modalities(module))])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Boxes and scores of all patches; without these heads what the towers give. Scores are of one text alone, so none is first."""
    if hasattr(module, "class_head"):
        return (Output("pred_boxes", "all", "boxes", scores="logits"), Output("logits", "all", "embedding"))
    held = clip.modalities(module)
    return tuple(Output(f"{m}_embeds" if len(held) > 1 else "pooler_output", m, "embedding") for m in held)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width), `input_ids` and `attention_mask` int64 (batch, tokens), padded to full length: one
    text to find in each image."""
    encoding.require_modalities(loaded, *clip.modalities(module))
    batch: dict[str, Tensor] = {}
    if "image" in clip.modalities(module):
        batch |= encoding.encode_images(processors, loaded)
    if "text" in clip.modalities(module):
        batch |= encoding.encode_texts(processors, loaded, clip.position_limit(module))
    return encoding.cast_floats(module, batch)


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image (1, channels, height, width), one text of full length (1, tokens), which begins with a token that is not 0: a text of
    zeros counts as padding."""
    batch = clip.example(module)
    if "input_ids" in batch:
        batch["input_ids"][:, 0] = 1
    return batch


FAMILY = Family(
    "owlvit", ("owlvit", "owlv2", "owlvit_vision_model", "owlvit_text_model", "owlv2_vision_model", "owlv2_text_model"), describe, outputs,
    clip.modalities, encode, clip.tokens, example,
)  # fmt: skip

"""SegFormer: four stages of Transformer blocks whose keys and values are made of fewer patches, and a head that reads them all. Xie et al.
2021, arXiv 2105.15203."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, root_of
from trimodal.models.families import vit
from trimodal.models.model import Family, Output
from trimodal.models.parts import AnyPart, AttentionPart, LayerPart, TowerPart

SIDE = 512  # of the blank image: the configuration names none
NEURONS = "neurons"
BLOCK = (
    LayerPart("layernorm_before", "norm", "attention"),
    LayerPart("attention.sequence_reduction.sequence_reduction", "conv", "reduction"),
    LayerPart("attention.sequence_reduction.layer_norm", "norm", "reduction"),
    AttentionPart(
        "attention.q_proj",
        "attention.k_proj",
        "attention.v_proj",
        "attention.o_proj",
        width="attention.head_dim",
        heads=("attention.num_attention_heads",),
    ),
    LayerPart("layernorm_after", "norm", "mlp"),
    LayerPart("mlp.fc1", "up", channels=("", NEURONS)),
    LayerPart("mlp.dwconv.dwconv", "conv", "mlp", channels=("", NEURONS)),
    LayerPart("mlp.fc2", "down", channels=(NEURONS, "")),
)


def describe(module: nn.Module) -> Layout:
    """One tower; a perceptron has a depthwise convolution in its middle, which is cut with the neurons."""
    root = root_of(module, "segformer")
    stages = [name for name, _ in module.get_submodule(f"{root}.stages".lstrip(".")).named_children()]
    tower = TowerPart(
        "image",
        "image",
        root,
        stem=_declare_patches(stages[0]),
        blocks="stages.*.blocks.*",
        block=BLOCK,
        between=dict(_find_between(module, root, stages)),
        after=(*_declare_decode_head(len(stages)), LayerPart("classifier", "head")),
        whole_tokens="a convolution runs over its grid of patches",
        whole_blocks="its blocks come in stages of different width",
        whole_width="its stages are of different width",
    )
    return build_layout(module, [tower])


def _declare_patches(stage: str) -> tuple[AnyPart, ...]:
    path = f"stages.{stage}.patch_embeddings"
    return (LayerPart(f"{path}.proj", "patch", f"stage{stage}"), LayerPart(f"{path}.layer_norm", "norm", f"stage{stage}.patch"))


def _find_between(module: nn.Module, root: str, stages: list[str]) -> Iterator[tuple[str, tuple[AnyPart, ...]]]:
    """Path of a stage's last block, and what runs behind it: its norm, and the patches of the next stage."""
    for stage, following in zip(stages, [*stages[1:], ""], strict=True):
        blocks = module.get_submodule(f"{root}.stages.{stage}.blocks".lstrip("."))
        behind = (LayerPart(f"stages.{stage}.layer_norm", "norm", f"stage{stage}"), *(_declare_patches(following) if following else ()))
        yield f"stages.{stage}.blocks.{len(list(blocks.children())) - 1}", behind


def _declare_decode_head(stages: int) -> tuple[AnyPart, ...]:
    """What makes a map of classes of all stages' outputs."""
    return (
        *(LayerPart(f"decode_head.linear_projections.{n}.proj", "projector", f"stage{n}") for n in range(stages)),
        LayerPart("decode_head.linear_fuse", "conv", "fuse"),
        LayerPart("decode_head.batch_norm", "norm", "fuse"),
        LayerPart("decode_head.classifier", "head"),
    )


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Class scores of the image or of every place in it, or the last stage's states."""
    if hasattr(module, "decode_head"):
        return (Output("logits", "image", "tokens", rows="pixel"),)
    if hasattr(module, "classifier"):
        return (Output("logits", "image", "logits", label="label"),)
    return (Output("last_hidden_state", "image", "embedding"),)


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image of 512 × 512 pixels: `pixel_values` (1, channels, height, width)."""
    return encoding.make_blank_image(module, config_of(module).num_channels, SIDE)


FAMILY = Family("segformer", ("segformer",), describe, outputs, vit.modalities, vit.encode, example=example)

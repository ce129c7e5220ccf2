"""Swin Transformer: attention inside of windows that every other block shifts, over stages of which each joins four patches to one.
Liu et al. 2021, arXiv 2103.14030."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from trimodal.core import Layout
from trimodal.models.declare import build_layout, root_of
from trimodal.models.families import vit
from trimodal.models.families.clap import SWIN_BLOCK
from trimodal.models.model import Family, Output
from trimodal.models.parts import AnyPart, AttentionPart, LayerPart, MlpPart, TowerPart

WINDOWS = "its attention works in windows of a fixed grid"
SHIFTED = "its blocks come in stages of different width, and every other one shifts its windows"
STAGES = "its stages are of different width, each made of the one before"
BLOCK = (
    LayerPart("layernorm_before", "norm", "attention"),
    AttentionPart(
        "attention.q_proj",
        "attention.k_proj",
        "attention.v_proj",
        "attention.o_proj",
        width="attention.head_dim",
        heads=("attention.num_attention_heads",),
        per_head=("attention.relative_position_bias.relative_position_bias_table",),
    ),
    LayerPart("layernorm_after", "norm", "mlp"),
    MlpPart("mlp.fc1", "mlp.fc2"),
)


def declare_tower(module: nn.Module, root: str) -> TowerPart:
    """The Swin Transformer at `root`, that of Donut too, whose layers have CLAP's names."""
    alike = bool(root_of(module, f"{root}.encoder.layers.0.blocks.0.attention.q_proj".lstrip(".")))
    return TowerPart(
        "image",
        "image",
        root,
        stem=(LayerPart("embeddings.patch_embeddings.projection", "patch"), LayerPart("embeddings.norm", "norm", "stem")),
        blocks="encoder.layers.*.blocks.*",
        block=BLOCK if alike else SWIN_BLOCK,
        between=find_patch_merges(module, root),
        head=(LayerPart("layernorm", "norm", "final"),),
        after=(LayerPart("classifier", "head"),),
        whole_tokens=WINDOWS,
        whole_blocks=SHIFTED,
        whole_width=STAGES,
    )


def find_patch_merges(module: nn.Module, root: str) -> Mapping[str, tuple[AnyPart, ...]]:
    """Path of a stage's last block -> the merge of patches that follows it, paths from `root`."""
    found: dict[str, tuple[AnyPart, ...]] = {}
    for stage, layer in module.get_submodule(f"{root}.encoder.layers".lstrip(".")).named_children():
        last = len(list(layer.get_submodule("blocks").children())) - 1
        merge = f"encoder.layers.{stage}.downsample"
        found[f"encoder.layers.{stage}.blocks.{last}"] = (
            LayerPart(f"{merge}.norm", "norm", f"merge{stage}"),
            LayerPart(f"{merge}.reduction", "patch", f"merge{stage}"),
        )
    return found


def describe(module: nn.Module) -> Layout:
    """One tower. A head has a column in its block's table of relative positions."""
    return build_layout(module, [declare_tower(module, root_of(module, "swin", "donut"))])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Class scores, or the mean state."""
    if hasattr(module, "classifier"):
        return (Output("logits", "image", "logits", label="label"),)
    return (Output("pooler_output", "image", "embedding"),)


FAMILY = Family("swin", ("swin", "donut-swin"), describe, outputs, vit.modalities, vit.encode, example=vit.example)

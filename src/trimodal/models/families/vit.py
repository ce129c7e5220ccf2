"""ViT: a Transformer over image patches. Dosovitskiy et al. 2020, arXiv 2010.11929. DeiT has the same parts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, explain_fixed_width, root_of
from trimodal.models.model import Family, LoadedSample, Output, Processors
from trimodal.models.parts import AttentionPart, LayerPart, MlpPart, TowerPart

BLOCK = (
    LayerPart("layernorm_before", "norm", "attention"),
    AttentionPart(
        "attention.q_proj",
        "attention.k_proj",
        "attention.v_proj",
        "attention.o_proj",
        width="attention.head_dim",
        heads=("attention.num_attention_heads",),
    ),
    LayerPart("layernorm_after", "norm", "mlp"),
    MlpPart("mlp.fc1", "mlp.fc2"),
)

BARE = tuple(f"embeddings.{name}" for name in ("cls_token", "distillation_token", "mask_token", "position_embeddings"))


def declare_tower(module: nn.Module, root: str, whole_width: str = "") -> TowerPart:
    """The tower at `root`, also that of models with a decoder; the class token and the positions are plain parameters and no sites. DeiT
    has a token for distillation besides."""
    embeddings = module.get_submodule(f"{root}.embeddings".lstrip("."))
    return TowerPart(
        "image",
        "image",
        root,
        stem=(LayerPart("embeddings.patch_embeddings.projection", "patch"),),
        blocks="layers",
        block=BLOCK,
        head=(LayerPart("layernorm", "norm", "final"), LayerPart("pooler.dense", "pooler")),
        free_parameters=BARE,
        whole_width=whole_width,
        after=(LayerPart("classifier", "head"),),
        whole_tokens="",
        protected=2 if hasattr(embeddings, "distillation_token") else 1,
    )


def describe(module: nn.Module) -> Layout:
    """One tower."""
    fixed = explain_fixed_width(output.field for output in outputs(module))
    return build_layout(module, [declare_tower(module, root_of(module, "vit", "deit"), fixed)])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Class scores, or the state of the class token."""
    if hasattr(module, "classifier"):
        return (Output("logits", "image", "logits", label="label"),)
    return (Output("last_hidden_state", "image", "embedding", pool="first"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Images only."""
    return ("image",)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width)."""
    return encoding.cast_floats(module, encoding.encode_images(processors, loaded))


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image: `pixel_values` (1, channels, height, width)."""
    return encoding.make_blank_image(module, config_of(module).num_channels, *encoding.height_and_width(config_of(module).image_size))


FAMILY = Family("vit", ("vit", "deit"), describe, outputs, modalities, encode, example=example)

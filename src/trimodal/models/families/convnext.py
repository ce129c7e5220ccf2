"""ConvNeXt and ConvNeXt V2: depthwise convolutions and perceptrons over channels, in stages. Liu et al. 2022, arXiv 2201.03545;
Woo et al. 2023, arXiv 2301.00808."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, root_of
from trimodal.models.families import vit
from trimodal.models.families.swin import outputs
from trimodal.models.families.whole_units import keep_units_whole
from trimodal.models.model import Family
from trimodal.models.parts import AnyPart, LayerPart, MlpPart, TowerPart

STAGES = "its stages are of different width"
ENERGY = "a normalisation (GRN) divides each by the mean of all, so that those which stay would change"
BLOCK = (
    LayerPart("dwconv", "conv"),
    LayerPart("layernorm", "norm", "mlp"),
    MlpPart("pwconv1", "pwconv2"),
)


def describe(module: nn.Module) -> Layout:
    """One tower; a norm and a convolution stand between two stages. The scales of what a block adds are plain parameters."""
    root = root_of(module, "convnext", "convnextv2")
    between = dict(_find_downsamplings(module, f"{root}.encoder.stages".lstrip(".")))
    tower = TowerPart(
        "image",
        "image",
        root,
        stem=(LayerPart("embeddings.patch_embeddings", "patch"), LayerPart("embeddings.layernorm", "norm", "stem")),
        blocks="encoder.stages.*.layers.*",
        block=BLOCK,
        between=between,
        head=(LayerPart("layernorm", "norm", "final"),),
        after=(LayerPart("classifier", "head"),),
        whole_tokens="a convolution runs over its grid of patches",
        whole_blocks="its blocks come in stages of different width",
        whole_width=STAGES,
    )
    layout = build_layout(module, [tower])
    return keep_units_whole(layout, "image", "neurons", ENERGY) if config_of(module).model_type == "convnextv2" else layout


def _find_downsamplings(module: nn.Module, stages: str) -> Iterator[tuple[str, tuple[AnyPart, ...]]]:
    """Path of a stage's last block, and the parts that make the next stage's input of what it gives."""
    last = ""
    for number, stage in module.get_submodule(stages).named_children():
        if last:
            path = f"encoder.stages.{number}.downsampling_layer"
            yield last, (LayerPart(f"{path}.0", "norm", f"stage{number}"), LayerPart(f"{path}.1", "patch", f"stage{number}"))
        last = f"encoder.stages.{number}.layers.{len(list(stage.get_submodule('layers').children())) - 1}"


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image: `pixel_values` (1, channels, height, width)."""
    return encoding.make_blank_image(module, config_of(module).num_channels, *encoding.height_and_width(config_of(module).image_size))


FAMILY = Family("convnext", ("convnext", "convnextv2"), describe, outputs, vit.modalities, vit.encode, example=example)

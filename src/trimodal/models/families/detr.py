"""DETR: a convolutional backbone, a Transformer over its map, and a decoder that turns learnt queries into boxes. Carion et al. 2020,
arXiv 2005.12872. Table Transformer has the same parts: Smock et al. 2021, arXiv 2110.00061."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, root_of
from trimodal.models.families import vit
from trimodal.models.families.resnet import declare_conv_norm
from trimodal.models.model import Family, LoadedSample, Output, Processors
from trimodal.models.parts import OWN, AnyPart, AttentionPart, LayerPart, MlpPart, TowerPart
from trimodal.models.transformers_models.outputs import find_outputs

SIDE = 800  # of the blank image, the shorter edge of what it is trained on
FROZEN = "its batch norms are frozen and stand in no layer, so that nothing of them can be cut"
LAID_OUT = "its forward lays the heads out as wide as the stream, whatever their number"
WAVES = "its positions are waves of this width that stand in no layer"
CONVOLUTIONS = (
    *declare_conv_norm("layer.0", "1"),
    *declare_conv_norm("layer.1", "2"),
    *declare_conv_norm("layer.2", "3"),
    *declare_conv_norm("shortcut", "shortcut"),
)


def declare_attention(path: str, branch: str = "", table: bool = False) -> tuple[AttentionPart, LayerPart]:
    """The attention at `path` and the norm behind it; the `table` Transformer's lays heads out as wide as the stream."""
    output = "out_proj" if table else "o_proj"
    attention = AttentionPart(
        f"{path}.q_proj",
        f"{path}.k_proj",
        f"{path}.v_proj",
        f"{path}.{output}",
        width="" if table else f"{path}.head_dim",
        branch=branch,
        memory="" if branch else OWN,
        whole_heads=LAID_OUT if table else "",
    )
    return attention, LayerPart(f"{path}_layer_norm", "norm", branch or "attention")


def declare_mlp(before: bool) -> tuple[AnyPart, ...]:
    """The perceptron and its norm, whose layers have two sets of names; `before` where the norm feeds it."""
    norm = LayerPart("final_layer_norm", "norm", "mlp")
    layers = (MlpPart("mlp.fc1", "mlp.fc2"), MlpPart("fc1", "fc2"))
    return (norm, *layers) if before else (*layers, norm)


def describe(module: nn.Module) -> Layout:
    """Backbone (`image`), `image_encoder`, `image_decoder`; the heads for classes and boxes are the decoder's."""
    inner = root_of(module, "model", "detr.model")
    table = config_of(module).model_type == "table-transformer"
    attention = declare_attention("self_attn", table=table)
    own, cross = (a[::-1] if table else a for a in (attention, declare_attention("encoder_attn", "cross", table)))
    backbone = TowerPart(
        "image", "image", f"{inner}.backbone".lstrip("."), whole_blocks=FROZEN, whole_width=FROZEN,
        whole_tokens="it has no tokens but a map",
        **_find_backbone_blocks(module, f"{inner}.backbone".lstrip(".")),
    )  # fmt: skip
    encoder = TowerPart(
        "image_encoder", "image", f"{inner}.encoder".lstrip("."), blocks="layers", block=(*own, *declare_mlp(table)),
        head=(LayerPart("layernorm", "norm", "final"),), whole_tokens="the decoder adds to every one where it stood",
        counted="encoder_layers", whole_width=WAVES,
    )  # fmt: skip
    boxes = tuple(LayerPart(f"bbox_predictor.layers.{n}", "head", f"box.{n}") for n in range(3))
    decoder = TowerPart(
        "image_decoder", "image", f"{inner}.decoder".lstrip("."), blocks="layers", block=(*own, *cross, *declare_mlp(table)),
        head=(LayerPart("layernorm", "norm", "final"),), after=(LayerPart("class_labels_classifier", "head", "class"), *boxes),
        whole_tokens="each of its tokens may become a box", counted="decoder_layers", whole_width=WAVES,
    )  # fmt: skip
    return build_layout(module, [backbone, *_declare_entrances(inner), encoder, decoder])


def _declare_entrances(inner: str) -> tuple[TowerPart, TowerPart]:
    """What makes the encoder's input of the map, and the decoder's queries, whose weight is added without a call."""
    return (
        TowerPart("image_encoder", "image", inner, stem=(LayerPart("input_projection", "projector"),)),
        TowerPart("image_decoder", "image", inner, stem=(LayerPart("query_position_embeddings", "embedding", "query"),)),
    )


def _find_backbone_blocks(module: nn.Module, root: str) -> Mapping[str, Any]:
    """Stem and blocks of a ResNet of Transformers at `root`; nothing for another backbone, whose layers then belong to no block."""
    net = root_of(module, f"{root}.model.encoder.stages", f"{root}.conv_encoder.model.encoder.stages").removesuffix(".encoder.stages")
    if not net:
        return {}
    inside = net.removeprefix(f"{root}.")
    stem = (LayerPart(f"{inside}.embedder.embedder.convolution", "conv", "stem"),)
    return {"stem": stem, "blocks": f"{inside}.encoder.stages.*.layers.*", "block": CONVOLUTIONS}


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Boxes and classes of all queries, or the decoder's states."""
    if hasattr(module, "bbox_predictor"):
        return find_outputs(module)
    return (Output("last_hidden_state", "image", "embedding"),)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width), padded to the largest, with `pixel_mask` int64 (batch, height, width)."""
    encoding.require_modalities(loaded, "image")
    found = encoding.get_processor(processors, "image")(images=[sample.image for sample in loaded], return_tensors="pt")
    return encoding.cast_floats(module, {name: found[name] for name in ("pixel_values", "pixel_mask") if name in found})


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image of 800 × 800 pixels: `pixel_values` (1, channels, height, width)."""
    return encoding.make_blank_image(module, config_of(module).num_channels, SIDE)


FAMILY = Family("detr", ("detr", "table-transformer"), describe, outputs, vit.modalities, encode, example=example)

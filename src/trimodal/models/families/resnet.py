"""ResNet: convolutions with residual connections. He et al. 2015, arXiv 1512.03385."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import Part, TowerPart, config_of, lay_out, root_of
from trimodal.models.model import Family, Loaded, Output, Processors


def layer(path: str, branch: str, inside: str = "", outside: str = "") -> tuple[Part, Part]:
    """A convolution and its batch norm, with the labels of the channels that come in and go out."""
    return (
        Part(f"{path}.convolution", "conv", branch, (inside, outside)),
        Part(f"{path}.normalization", "norm", branch, ("", outside)),
    )


SHORTCUT = layer("shortcut", "shortcut")  # runs after the layers: it is added to what they made
BASIC = (*layer("layer.0", "1", "", "channels"), *layer("layer.1", "2", "channels"), *SHORTCUT)
BOTTLENECK = (
    *layer("layer.0", "1", "", "1.channels"),
    *layer("layer.1", "2", "1.channels", "2.channels"),
    *layer("layer.2", "3", "2.channels"),
    *SHORTCUT,
)


def describe(module: nn.Module) -> Layout:
    """One tower. Channels inside a block can be cut; those of the residual stream are not labelled."""
    tower = TowerPart(
        "image",
        "image",
        root_of(module, "resnet"),
        stem=layer("embedder.embedder", "stem"),
        blocks="encoder.stages.*.layers.*",
        block=BOTTLENECK if config_of(module).layer_type == "bottleneck" else BASIC,
        after=(Part("classifier.1", "head"),),
    )
    return lay_out(module, [tower])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Class scores, or the mean over the last map (batch, channels, 1, 1)."""
    if hasattr(module, "classifier"):
        return (Output("logits", "image", "logits", label="label"),)
    return (Output("pooler_output", "image", "embedding"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Images only."""
    return ("image",)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[Loaded]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width)."""
    return encoding.in_dtype(module, encoding.images(processors, loaded))


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image of 224 x 224, which the configuration does not say."""
    return encoding.no_image(module, config_of(module).num_channels, 224)


FAMILY = Family("resnet", ("resnet",), describe, outputs, modalities, encode, example=example)

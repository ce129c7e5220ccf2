"""ResNet: convolutions with residual connections. He et al. 2015, arXiv 1512.03385."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from trimodal.core import Axis, Layout, Site
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, root_of
from trimodal.models.model import Family, LoadedSample, Output, Processors
from trimodal.models.parts import LayerPart, TowerPart


def declare_conv_norm(path: str, branch: str, inside: str = "", outside: str = "") -> tuple[LayerPart, LayerPart]:
    """A convolution and its batch norm, with the labels of the channels that come in and go out."""
    return (
        LayerPart(f"{path}.convolution", "conv", branch, (inside, outside)),
        LayerPart(f"{path}.normalization", "norm", branch, ("", outside)),
    )


SHORTCUT = declare_conv_norm("shortcut", "shortcut")  # runs after the layers: it is added to what they made
BASIC = (*declare_conv_norm("layer.0", "1", "", "channels"), *declare_conv_norm("layer.1", "2", "channels"), *SHORTCUT)
BOTTLENECK = (
    *declare_conv_norm("layer.0", "1", "", "1.channels"),
    *declare_conv_norm("layer.1", "2", "1.channels", "2.channels"),
    *declare_conv_norm("layer.2", "3", "2.channels"),
    *SHORTCUT,
)


def describe(module: nn.Module) -> Layout:
    """One tower. Channels inside a block have a label per block, those of a stage's residual stream one per stage."""
    tower = TowerPart(
        "image",
        "image",
        root_of(module, "resnet"),
        stem=declare_conv_norm("embedder.embedder", "stem"),
        blocks="encoder.stages.*.layers.*",
        block=BOTTLENECK if config_of(module).layer_type == "bottleneck" else BASIC,
        after=(LayerPart("classifier.1", "head"),),
        whole_blocks="its blocks come in stages of different width; prune.channels makes them narrower",
        whole_width="its stages are of different width; prune.channels makes them narrower",
    )
    layout = build_layout(module, [tower])
    return label_stages(layout) if hasattr(module, "classifier") else layout


def label_stages(layout: Layout) -> Layout:
    """Label what the blocks of a stage add up to, `image.stage.0.channels`.

    Every block adds what its last layer makes to what it was given, or to what its shortcut makes of that; where there
    is no shortcut, the stream is that of the block before. The stem's output begins the first one.
    """
    stage = -1
    streams = {}  # block -> numbers of the streams that it reads and writes
    shortcuts = {site.block for site in layout.sites if site.branch == "shortcut"}
    for block in sorted({site.block for site in layout.sites if site.block is not None}):
        reads = stage
        stage += block in shortcuts
        streams[block] = reads, stage
    last = max(int(site.branch) for site in layout.sites if site.branch.isdigit())

    def axis(number: int, size: int) -> Axis:
        return Axis(f"image.stage.{number + 1}.channels", size)

    def labelled(site: Site) -> Site:
        if site.block is None:
            read, written = (stage, None) if site.role == "head" else (None, -1)
        else:
            reads, writes = streams[site.block]
            first, final = site.branch in ("1", "shortcut"), site.branch in (str(last), "shortcut")
            read, written = reads if first and site.kind == "conv" else None, writes if final else None
        incoming = site.input_axis if read is None else axis(read, site.shape[1])
        outgoing = site.output_axis if written is None else axis(written, site.shape[0])
        return replace(site, input_axis=incoming, output_axis=outgoing)

    return replace(layout, sites=tuple(labelled(site) for site in layout.sites))


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Class scores, or the mean over the last map (batch, channels, 1, 1)."""
    if hasattr(module, "classifier"):
        return (Output("logits", "image", "logits", label="label"),)
    return (Output("pooler_output", "image", "embedding"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Images only."""
    return ("image",)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width)."""
    return encoding.cast_floats(module, encoding.encode_images(processors, loaded))


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image: `pixel_values` (1, channels, 224, 224), a size which the configuration does not say."""
    return encoding.make_blank_image(module, config_of(module).num_channels, 224)


FAMILY = Family("resnet", ("resnet",), describe, outputs, modalities, encode, example=example)

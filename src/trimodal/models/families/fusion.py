"""Our own fused model (`networks/fusion/`): one Transformer tower per modality and an encoder over all their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trimodal.core import MODALITIES, Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of
from trimodal.models.model import Batch, Family, LoadedSample, Output, Processors
from trimodal.models.parts import OWN, AttentionPart, LayerPart, MlpPart, TowerPart
from trimodal.networks.fusion.configuration import FusionConfig
from trimodal.networks.fusion.modeling import FusionModel

BLOCK = (
    LayerPart("norm_1", "norm", "attention"),
    AttentionPart("attention.query", "attention.key", "attention.value", "attention.output", width="attention.head_dim"),
    LayerPart("norm_2", "norm", "mlp"),
    MlpPart("mlp.up", "mlp.down"),
)


def declare_tower(name: str) -> TowerPart:
    """One modality's tower without its head, which runs after all towers."""
    return TowerPart(
        name,
        name,
        name,
        stem=(
            *(LayerPart(f"stem.conv_{i}", "conv", str(i), stream=("", OWN if i == 3 else "")) for i in (1, 2, 3)),
            LayerPart("stem", "embedding"),
            LayerPart("position", "embedding", "position"),
        ),
        blocks="blocks",
        block=BLOCK,
        head=(LayerPart("norm", "norm", "final"),),
        whole_tokens="words are not merged, only images and sounds" if name == "text" else "",
        restored=True,  # heads take the mean, and the fusion reads the masks of all tokens
        counted=f"{name}_blocks",
        whole_width="",
    )


FUSION = TowerPart(
    "fusion",
    "fusion",
    "fusion",
    stem=(*(LayerPart(f"projectors.{m}", "projector", m, stream=(m, OWN)) for m in MODALITIES), LayerPart("kind", "embedding", "kind")),
    blocks="blocks",
    block=BLOCK,
    head=(LayerPart("norm_2", "norm", "mlp"), MlpPart("mlp.up", "mlp.down"), LayerPart("norm", "norm", "final")),
    after=(LayerPart("head", "head"),),
    whole_tokens="",
    protected=1,
    counted="fusion_blocks",
    whole_width="",
)


def describe(module: nn.Module) -> Layout:
    """Three towers, their heads, the fusion. The perceptron outside of blocks is that of the late fusion."""
    heads = (TowerPart(m, m, m, head=(LayerPart("head", "head"),)) for m in MODALITIES)
    return build_layout(module, [*(declare_tower(m) for m in MODALITIES), *heads, FUSION])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """The answer, and what each tower alone says."""
    alone = (Output(f"{m}_logits", m, "logits", label=f"labels.{m}") for m in MODALITIES)
    return (Output("logits", "all", "logits", label="label"), *alone)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """All three."""
    return MODALITIES


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """What the combined processor makes of the samples: images (batch, channels, side, side), log-mel energies (batch, mels,
    frames), `input_ids` int64 (batch, tokens), with masks."""
    encoding.require_modalities(loaded, *MODALITIES)
    processor = encoding.get_processor(processors, "whole")
    rate = int(processor.feature_extractor.sampling_rate)
    grey = config_of(module).image_channels == 1
    found = processor(
        images=[sample.image.convert("L") if grey else sample.image for sample in loaded if sample.image is not None],
        audio=encoding.collect_waveforms(loaded, rate),
        text=[sample.text for sample in loaded],
    )
    return encoding.cast_floats(module, {name: torch.as_tensor(value) for name, value in found.items()})


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Which modality each token of the joint stream (batch, tokens) came from, and the padding of audio and text."""
    assert isinstance(module, FusionModel)  # family_of says so; for the type checker
    masks = module.make_token_masks(batch.get("audio_mask"), batch.get("attention_mask"))
    numbers = {"audio": encoding.AUDIO, "text": encoding.TEXT}
    found = {m: _number_tokens(masks[m], number) for m, number in numbers.items()}
    return {**{m: t for m, t in found.items() if t is not None}, "fusion": module.fusion_layout(batch)}


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image, one clip and one text of full length, each of shape (1, …)."""
    config = config_of(module)
    sound = encoding.make_zero_input(module, config.audio_mels, config.audio_frames)
    image = encoding.make_blank_image(module, config.image_channels, *encoding.height_and_width(config.image_size))
    return {**image, "input_features": sound, **encoding.make_blank_text(module, config.text_tokens)}


def _number_tokens(mask: Tensor | None, number: int) -> Tensor | None:
    return None if mask is None else torch.where(mask, number, encoding.PADDING)


FAMILY = Family("fusion", (FusionConfig.model_type,), describe, outputs, modalities, encode, tokens, example, classes=(FusionModel,))

"""AST: a ViT over patches of a log-mel spectrogram. Gong et al. 2021, arXiv 2104.01778."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, explain_fixed_width, root_of
from trimodal.models.families import vit
from trimodal.models.model import Family, LoadedSample, Output, Processors
from trimodal.models.parts import LayerPart, TowerPart


def describe(module: nn.Module) -> Layout:
    """One tower; class and distillation token and the positions are plain parameters and no sites."""
    tower = TowerPart(
        "audio",
        "audio",
        root_of(module, "audio_spectrogram_transformer"),
        stem=(LayerPart("embeddings.patch_embeddings.projection", "patch"),),
        blocks="layers",
        block=vit.BLOCK,
        head=(LayerPart("layernorm", "norm", "final"),),
        after=(LayerPart("classifier.layernorm", "norm", "head"), LayerPart("classifier.dense", "head")),
        whole_tokens="",
        protected=2,
        free_parameters=vit.BARE,
        whole_width=explain_fixed_width(output.field for output in outputs(module)),
    )
    return build_layout(module, [tower])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Class scores, or the pooled state."""
    if hasattr(module, "classifier"):
        return (Output("logits", "audio", "logits", label="label"),)
    return (Output("pooler_output", "audio", "embedding"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Audio only."""
    return ("audio",)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`input_values` (batch, frames, mels), padded or cut to the length that the positions were made for."""
    return encoding.cast_floats(module, encoding.encode_audio(processors, loaded))


def example(module: nn.Module) -> dict[str, Tensor]:
    """One spectrogram: `input_values` (1, frames, mels)."""
    config = config_of(module)
    return {"input_values": encoding.make_zero_input(module, config.max_length, config.num_mel_bins)}


FAMILY = Family("ast", ("audio-spectrogram-transformer",), describe, outputs, modalities, encode, example=example)

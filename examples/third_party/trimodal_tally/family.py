"""What trimodal has to know of a `TallyModel`: its parts by path, what goes in, what comes out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout
from trimodal.models.model import Family, LoadedSample, Output, Processors
from trimodal.models.parts import LayerPart, MlpPart, TowerPart
from trimodal_tally.network import TallyConfig, TallyModel

WORDS = 32


def describe(module: nn.Module) -> Layout:
    """One tower of text: words, blocks of a norm and a perceptron, and a head that reads the stream."""
    tower = TowerPart(
        "text", "text",
        stem=(LayerPart("words", "embedding"),),
        blocks="blocks",
        block=(LayerPart("norm", "norm", "mlp"), MlpPart("up", "down")),
        after=(LayerPart("head", "head"),),
    )  # fmt: skip
    return build_layout(module, [tower])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Scores of the classes, compared with a sample's `label`."""
    return (Output("logits", "text", "logits", label="label"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Text."""
    return ("text",)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (batch, words), by the folder's own tokenizer."""
    return encoding.encode_texts(processors, loaded, WORDS)


def example(module: nn.Module) -> dict[str, Tensor]:
    """One text: `input_ids` (1, words)."""
    return encoding.make_blank_text(module, WORDS)


FAMILY = Family("tally", (TallyConfig.model_type,), describe, outputs, modalities, encode, example=example, classes=(TallyModel,))

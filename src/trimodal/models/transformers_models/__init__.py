"""Any Transformers model that no family declares: data, outputs and metrics by its class, its configuration and its folder's processors.

Its towers and sites are those of any module (`models/generic.py`), and what must be cut together is found by watching it run. What a class
says of itself (`encode`, `outputs`, `modalities`, `example`) comes first, unless it is a class of Transformers, where those names mean
other things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from trimodal.errors import DataError
from trimodal.models import generic
from trimodal.models.foreign import run_foreign
from trimodal.models.model import Batch, Family, LoadedSample, Output, Processors
from trimodal.models.transformers_models.encode import encode_for_forward, explain_lack
from trimodal.models.transformers_models.example import make_blank_example
from trimodal.models.transformers_models.outputs import find_outputs
from trimodal.models.transformers_models.signature import find_modalities, list_parameters, list_required
from trimodal.models.transformers_models.tokens import mark_tokens


def _says_itself(module: nn.Module, name: str) -> bool:
    """Whether the module's class, or the module, says `name` for trimodal: no class of Transformers does."""
    owner = next((kind for kind in type(module).__mro__ if name in vars(kind)), None)
    return name in vars(module) or (owner is not None and not owner.__module__.startswith(("transformers.", "torch.")))


def modalities(module: nn.Module) -> tuple[str, ...]:
    """What forward takes, out of image, audio and text."""
    return generic.modalities(module) if _says_itself(module, "modalities") else find_modalities(module)


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """What the head gives."""
    return generic.outputs(module) if _says_itself(module, "outputs") else find_outputs(module)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """Keyword arguments of forward, tensors (samples, …), by the folder's processors.

    Raises:
        DataError: forward needs what nobody can make of samples, or a sample lacks what it takes.
        ModelError: the folder lacks a processor, or it fails.
    """
    if _says_itself(module, "encode"):
        return generic.encode(module, processors, loaded)
    if not find_modalities(module):
        raise DataError(explain_lack(module, list_required(module) or list(list_parameters(module))[:3]))
    return encode_for_forward(module, processors, loaded)


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Text (samples, tokens) with its padding left out, and which of it stands for an image or a sound."""
    return mark_tokens(module, batch)


def example(module: nn.Module) -> dict[str, Tensor]:
    """One blank sample, tensors (1, …); empty where nobody can say what the model takes.

    Raises:
        ModelError: nothing can be made of what the configuration says.
    """
    if _says_itself(module, "example"):
        return generic.example(module)
    return run_foreign(f"making one blank sample for {type(module).__name__}", partial(make_blank_example, module))


FAMILY = Family("transformers", (), generic.describe, outputs, modalities, encode, tokens, example, declares_axes=False)


_DATA = ("outputs", "modalities", "encode", "tokens", "example")
_OTHER_HEADS: Mapping[str, tuple[str, ...]] = {
    "ForMultipleChoice": _DATA, "ForMaskedImageModeling": ("outputs", "encode"), "ForXVector": ("outputs",), "ForPreTraining": ("outputs",),
    "Backbone": ("outputs",), "ForQuestionAnswering": ("outputs", "encode"), "ForImageClassificationWithTeacher": ("outputs",),
}  # fmt: skip
"""Heads whose inputs or outputs no declared family knows, and what is to be asked here for them."""


def serve_head(family: Family, module: nn.Module) -> Family:
    """`family` with its towers and axes; and of data, outputs and example what the module's head makes other than the family knows."""
    asked = next((names for head, names in _OTHER_HEADS.items() if type(module).__name__.endswith(head)), ())
    found: dict[str, Any] = {name: getattr(FAMILY, name) for name in asked}
    return replace(family, **found) if found else family

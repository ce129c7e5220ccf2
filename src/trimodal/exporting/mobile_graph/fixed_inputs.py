"""A component with inputs of fixed shapes: one sample, and texts padded to one length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimodal.errors import ModelError
from trimodal.exporting.component import Component
from trimodal.exporting.components.kept_states import PAST

TOKENS = 128
"""The length of texts unless the model has no so many positions."""
_LENGTH = "sequence_length"


def fix_shapes(component: Component) -> Component:
    """The component with one sample of 128 tokens for its example, or of all positions where there are fewer; a sound as long as it is.

    Raises:
        ModelError: it takes keys and values of earlier tokens, of which there are more with every step.
    """
    growing = [name for name in component.inputs if name.startswith(PAST)]
    if growing:
        raise ModelError(
            f"{component.name} generates word by word and takes {growing[0]} of any length, and files for phones have fixed shapes; "
            "export it as onnx or openvino, or its encoder alone, as a model of its own"
        )
    length = min(TOKENS, _count_positions(component) or TOKENS) if "input_ids" in component.inputs else 0
    inputs = {name: _fit_input(value, component.dynamic_of(name), length) for name, value in component.inputs.items()}
    return replace(component, inputs=inputs)


def _fit_input(value: Tensor, dynamic: Mapping[int, str], length: int) -> Tensor:
    """One sample of it, with every dimension of tokens as long as `length`: its values over again."""
    for dim, name in dynamic.items():
        wanted = 1 if name == "batch_size" else length if name == _LENGTH and length else value.shape[dim]
        value = value.index_select(dim, torch.arange(wanted) % value.shape[dim])
    return value.contiguous()


def _count_positions(component: Component) -> int | None:
    """How many tokens a text may have; None where the configuration does not say."""
    config: Any = getattr(component.module, "config", None)
    text = getattr(config, "text_config", config)
    most = getattr(text, "max_position_embeddings", None)
    if most is None or "input_ids" not in component.inputs:
        return None
    behind = getattr(text, "model_type", "") == "roberta"  # its positions begin behind the padding's own
    return int(most) - (int(text.pad_token_id) + 1 if behind else 0)

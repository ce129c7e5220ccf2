"""Keys and values of earlier tokens as inputs and outputs of a component, under the names that Optimum and Transformers.js have.

    past_key_values.3.key (batch, heads, past, width)  →  present.3.key (batch, heads, past + new, width)

No past is a past of length 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

PAST, PRESENT = "past_key_values", "present"
PAST_TOKENS = 5
"""How many earlier tokens tracing is done with: unlike the other lengths in `whole.py`."""


class GivenLayer(DynamicLayer):
    """One layer's keys and values (batch, heads, past, width), as they were given."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys: Tensor = keys
        self.values: Tensor = values

    def get_seq_length(self) -> int:
        """How many tokens there are, without asking whether there are any, which would be answered for good while tracing."""
        return self.keys.shape[-2]


def name_states(prefix: str, layer: int, part: str = "") -> tuple[str, str]:
    """What keys and values of `layer` are called; `part` is `decoder` or `encoder` where a model has both."""
    stem = ".".join(filter(None, (prefix, str(layer), part)))
    return f"{stem}.key", f"{stem}.value"


def list_state_names(prefix: str, layers: int, parts: Sequence[str] = ("",)) -> tuple[str, ...]:
    """All names, layer by layer and part by part."""
    return tuple(name for layer in range(layers) for part in parts for name in name_states(prefix, layer, part))


def make_past(cache: Any, layers: int, part: str = "") -> dict[str, Tensor]:
    """The past of every layer for tracing, by name: (2, heads, 5, width) of random numbers, with heads and widths as a forward pass
    left them in `cache`, for heads may have been removed from some layers and not from others."""
    made: dict[str, Tensor] = {}
    for number in range(layers):
        layer = cache.layers[number]
        for name, found in zip(name_states(PAST, number, part), (layer.keys, layer.values), strict=True):
            made[name] = torch.rand(2, found.shape[1], PAST_TOKENS, found.shape[3])
    return made


def read_cache(inputs: Mapping[str, Tensor], layers: int, part: str = "") -> DynamicCache:
    """The past among `inputs` as Transformers' attention takes it: keys and values (batch, heads, past, size)."""
    cache = DynamicCache()
    cache.layers = [GivenLayer(*(inputs[name] for name in name_states(PAST, number, part))) for number in range(layers)]
    return cache


def read_present(cache: Any, layers: int, part: str = "") -> dict[str, Tensor]:
    """Past and new tokens of every layer (batch, heads, past + new, width), by name."""
    return {
        name: value
        for number in range(layers)
        for name, value in zip(
            name_states(PRESENT, number, part), (cache.layers[number].keys, cache.layers[number].values), strict=True
        )
    }  # fmt: skip


def name_past_lengths(names: Sequence[str], length: str = "past_sequence_length") -> dict[str, Mapping[int, str]]:
    """Which dimensions of states may have any length, and what they are called."""
    return {name: {0: "batch_size", 2: length} for name in names}

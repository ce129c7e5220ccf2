"""A model that was cut evenly as its class makes it from a configuration: what stock Transformers loads without knowing that it was cut."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from trimodal.core import Layout, Tower
from trimodal.errors import RecipeError
from trimodal.models.foreign import run_foreign

SIZES: Mapping[str, tuple[str, ...]] = {
    "width": ("hidden_size", "d_model", "n_embd", "dim"),
    "heads": ("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads", "n_head", "n_heads"),
    "key_heads": ("num_key_value_heads",),
    "neurons": ("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "n_inner", "d_ff", "hidden_dim"),
}
_SIDES = ("encoder_", "decoder_")


def find_tower_config(module: nn.Module, tower: Tower) -> Any:
    """The configuration that the tower's blocks are made from; None if there is none."""
    path = tower.blocks[0]
    while path:
        path = path.rpartition(".")[0]
        own = getattr(module.get_submodule(path), "config", None)
        if own is not None:
            return own
    return None


def find_size_names(config: Any, tower: Tower, kind: str) -> list[str]:
    """What the configuration calls this size of the tower: of encoder and decoder in one configuration those of its side."""
    side = next((side for side in _SIDES if f".{side.strip('_')}." in f".{tower.blocks[0]}."), "")
    names = [name for name in SIZES[kind] if isinstance(getattr(config, name, None), int)]
    return [name for name in names if not name.startswith(_SIDES) or name.startswith(side or _SIDES)]


def has_own_head_width(config: Any) -> bool:
    """Whether the width of a head is said by itself, so that heads can go while the stream stays."""
    return isinstance(getattr(config, "head_dim", None), int)


def set_tower_sizes_(module: nn.Module, layout: Layout, sizes: Mapping[str, Mapping[str, int]]) -> None:
    """Write by tower and kind of size the numbers that are left into the configurations of `module`."""
    for tower in layout.towers:
        for kind, size in sizes.get(tower.name, {}).items():
            config = find_tower_config(module, tower)
            for name in find_size_names(config, tower, kind):
                setattr(config, name, size)


def rebuild_from_config(module: nn.Module, name: str) -> nn.Module:
    """A fresh module of the same class from the configuration of `module`, with its weights.

    Raises:
        RecipeError: what was cut cannot be said in a configuration; names the first tensor and both shapes.
    """
    if not hasattr(module, "config"):
        raise RecipeError(f"{name}: model.student_of: {type(module).__name__} has no configuration; give class and config")
    kind, config = type(module), copy.deepcopy(module.config)
    fresh: nn.Module = run_foreign(f"making {kind.__name__} of fewer layers or units", lambda: kind(config))
    state, wanted = module.state_dict(), fresh.state_dict()
    for key, value in wanted.items():
        found = state.get(key)
        if found is None or found.shape != value.shape:
            shape = None if found is None else tuple(found.shape)
            raise RecipeError(
                f"{name}: model.student_of: {key} is {shape} as cut, and {tuple(value.shape)} as {kind.__name__} makes it from a "
                "configuration; leave width out, or compress the teacher by prune.width and recover it with distill"
            )
    fresh.load_state_dict({key: state[key] for key in wanted})
    return fresh.eval()

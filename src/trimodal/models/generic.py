"""Any other `nn.Module`: sites by type, towers by the name of the top-level child; axis labels are found by watching it run.

What couples the dimensions of two layers cannot be read off their types. A module that has a method `example()`, which
returns keyword arguments of its forward for one sample, is run once to find out, see `graph/layout.py`. Of others
nothing can be cut; everything that works on one weight at a time (quantization, pruning, low rank) works all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import MODALITIES, Layout, Site, Tower
from trimodal.core.site import ROUTER
from trimodal.errors import DataError, ModelError
from trimodal.layers import OpenedLayer, Recurrent
from trimodal.models.declare import merge_tied_sites
from trimodal.models.foreign import run_foreign
from trimodal.models.model import Family, LoadedSample, Output, Processors
from trimodal.models.weighted import find_weighted_modules, is_router, make_site

_WORDS = {
    "image": ("vision", "visual", "image", "img"),
    "audio": ("audio", "speech", "acoustic"),
    "text": ("text", "language", "decoder", "bert"),
}


def describe(module: nn.Module) -> Layout:
    """Sites in the order of registration, which is mostly the running order. A tower's blocks are the children of its
    outermost lists (`nn.ModuleList`, `nn.Sequential`)."""
    paths = find_weighted_modules(module)
    names = dict.fromkeys(_tower_name_of(path) for path in paths) or {"model": None}
    towers = tuple(
        Tower(name, name if name in MODALITIES else "all", _find_blocks(module, name), _find_children(module, name))
        for name in names
    )
    blocks = {tower.name: tower.blocks for tower in towers}
    sites = [_make_block_site(module, path, kind, _tower_name_of(path), blocks[_tower_name_of(path)]) for path, kind in paths.items()]
    return Layout(towers, merge_tied_sites(module, sites))


def example(module: nn.Module) -> dict[str, Tensor]:
    """What the module's own `example()` returns: keyword arguments of its forward for one sample, tensors (1, …); else nothing.

    Raises:
        ModelError: it fails, or returns no dict.
    """
    own = _get_own_attribute(module, "example")
    found = run_foreign(f"{type(module).__name__}.example()", own) if callable(own) else {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ModelError(f"{type(module).__name__}.example returned {type(found).__name__}, expected a dict of tensors.")
    return found


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """The module's own `outputs`, a tuple of `Output`, if it has that; else its first output, compared by cosine."""
    own = _get_own_attribute(module, "outputs")
    if isinstance(own, tuple) and own and all(isinstance(output, Output) for output in own):
        return own
    return (Output("output", "all", "embedding"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """The module's own `modalities`, a tuple of `image`, `audio`, `text`, if it has that; else none are known."""
    own = _get_own_attribute(module, "modalities")
    return tuple(m for m in MODALITIES if isinstance(own, (tuple, list)) and m in own)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """What the module's own `encode(samples)` makes of them: keyword arguments of its forward, each of the shape that it takes,
    samples first.

    Raises:
        ModelError: it fails.
        DataError: there is no such method, or it returns no dict of tensors.
    """
    own = _get_own_attribute(module, "encode")
    if not callable(own):
        raise DataError(
            f"{type(module).__name__} is of no family that trimodal knows, so nothing says how its inputs are made; "
            "give it a method encode(samples) that returns forward's keyword arguments, or use --data none."
        )
    batch = run_foreign(f"{type(module).__name__}.encode()", lambda: own(loaded), f"it was given {len(loaded)} samples")
    if not isinstance(batch, dict) or not all(isinstance(value, torch.Tensor) for value in batch.values()):
        raise DataError(f"{type(module).__name__}.encode returned {type(batch).__name__}, expected a dict of tensors.")
    return batch


def _get_own_attribute(module: nn.Module, name: str) -> Any:
    """What the module says of itself under `name`, which it may compute; None where it says nothing."""
    return run_foreign(f"{type(module).__name__}.{name}", lambda: getattr(module, name, None))


def _tower_name_of(path: str) -> str:
    """The tower that the top-level child's name speaks of, else `model`."""
    child = path.partition(".")[0].lower()
    return next((tower for tower, words in _WORDS.items() if any(word in child for word in words)), "model")


def _make_block_site(module: nn.Module, path: str, kind: str, tower: str, blocks: tuple[str, ...]) -> Site:
    """The site in the block that its path leads through; its branch is the rest of the path."""
    role, branch = _role_and_branch(module, path, kind)
    for number, block in enumerate(blocks):
        if path == block or path.startswith(f"{block}."):
            return make_site(module, path, tower, number, role, branch[len(block) + 1 :])
    return make_site(module, path, tower, None, role, branch)


def _role_and_branch(module: nn.Module, path: str, kind: str) -> tuple[str, str]:
    """Its kind and its path; but a matrix of a recurrent layer, `…lstm.hidden.0`, is `…lstm.0` in the role `hidden`, one of an opened
    module, `…experts.matrices.down_proj`, has the name that its tensor had, and a router its own role."""
    layer, _, number = path.rpartition(".")
    owner, _, role = layer.rpartition(".")
    if role in ("input", "hidden", "project") and isinstance(module.get_submodule(owner), Recurrent):
        return role, f"{owner}.{number}".lstrip(".")
    if role == "matrices" and isinstance(module.get_submodule(owner), OpenedLayer):
        return kind, f"{owner}.{number}".lstrip(".")
    return ROUTER if is_router(module, path) else kind, path


def _find_blocks(module: nn.Module, tower: str) -> tuple[str, ...]:
    """The children of the tower's outermost lists, in the order of registration."""
    blocks: list[str] = []
    for path, part in module.named_modules():
        inside = any(path == block or path.startswith(f"{block}.") for block in blocks)
        if isinstance(part, (nn.ModuleList, nn.Sequential)) and _tower_name_of(path) == tower and not inside:
            blocks += [f"{path}.{name}".lstrip(".") for name, _ in part.named_children()]
    return tuple(blocks)


def _find_children(module: nn.Module, tower: str) -> tuple[str, ...]:
    return tuple(name for name, _ in module.named_children() if _tower_name_of(name) == tower)


FAMILY = Family("generic", (), describe, outputs, modalities, encode, example=example, declares_axes=False)

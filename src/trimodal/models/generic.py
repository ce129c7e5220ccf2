"""Any other `nn.Module`: sites by type, towers by what they are (`models/finding_towers.py`); axis labels are found by watching it run.

What couples the dimensions of two layers cannot be read off their types. A module that has a method `example()`, which
returns keyword arguments of its forward for one sample, is run once to find out, see `graph/layout.py`. Of others
nothing can be cut; everything that works on one weight at a time (quantization, pruning, low rank) works all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import MODALITIES, Layout, Site
from trimodal.core.site import ROUTER
from trimodal.errors import DataError, ModelError
from trimodal.layers import OpenedLayer, Recurrent
from trimodal.models.declare import merge_tied_sites
from trimodal.models.finding_towers import find_towers
from trimodal.models.foreign import run_foreign
from trimodal.models.model import Family, LoadedSample, Output, Processors
from trimodal.models.role_names import role_in_block, role_outside_blocks
from trimodal.models.weighted import find_weighted_modules, is_router, make_site


def describe(module: nn.Module) -> Layout:
    """Sites in the order of registration, which is mostly the running order."""
    paths = find_weighted_modules(module)
    found = find_towers(module, paths)
    blocks = {tower.name: tower.blocks for tower in found.towers}
    sites = [_make_block_site(module, path, kind, found.names[path], blocks[found.names[path]]) for path, kind in paths.items()]
    return Layout(found.towers, merge_tied_sites(module, sites))


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


def _make_block_site(module: nn.Module, path: str, kind: str, tower: str, blocks: tuple[str, ...]) -> Site:
    """The site in the block that its path leads through; its branch is the rest of the path."""
    role, branch = _role_and_branch(module, path, kind)
    for number, block in enumerate(blocks):
        if path == block or path.startswith(f"{block}."):
            inside = branch[len(block) + 1 :]
            return make_site(module, path, tower, number, role_in_block(inside, role), inside)
    return make_site(module, path, tower, None, role_outside_blocks(path, role), branch)


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


FAMILY = Family("generic", (), describe, outputs, modalities, encode, example=example, declares_axes=False)

"""Layers behind the last state that a model reads, such as LLaVA's last block of its vision tower: no file needs them."""

from __future__ import annotations

from collections.abc import Collection

from trimodal.models.blocks import count_read_blocks
from trimodal.models.model import Model


def find_idle_layers(model: Model, paths: Collection[str]) -> list[str]:
    """Those of `paths` that stand in blocks behind the last one whose output is read."""
    blocks = tuple(
        f"{block}." for tower in model.layout.towers if tower.read_by for block in tower.blocks[count_read_blocks(model.module, tower) :]
    )
    return [path for path in paths if path.startswith(blocks)]


def describe_idle_layers(paths: Collection[str]) -> tuple[str, ...]:
    """What a user should know of them; nothing where there are none."""
    if not paths:
        return ()
    return (f"{len(paths)} layers stand behind the last block that the model reads and are in no file, first {min(paths)}",)

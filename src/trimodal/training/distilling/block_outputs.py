"""What the blocks of a model give while it runs, under paths that teacher and student share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models.model import Batch, Model


@contextmanager
def record_block_outputs(model: Model, original: Layout | None = None) -> Iterator[dict[str, Tensor]]:
    """While open, every forward leaves each block's output (batch, tokens, width) under the path that the block has in `original`,
    which may have more of them; without it the path that it has."""
    seen: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        known = path if original is None else model.layout.find_original_path(original, path)

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[known] = output if isinstance(output, Tensor) else output[0]

        return hook

    paths = [path for tower in model.layout.towers for path in tower.blocks]
    handles = [model.module.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def find_real_tokens(model: Model, batch: Batch) -> Mapping[str, Tensor]:
    """Which tokens (batch, tokens) bool are no padding, by the path of every block whose tower the family speaks of."""
    codes = model.family.tokens(model.module, batch)
    return {path: codes[tower.name] >= 0 for tower in model.layout.towers if tower.name in codes for path in tower.blocks}

"""Queries, keys and values of the self-attentions in a model's blocks, whatever layers make them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import Layout, Site
from trimodal.models.blocks import split_block_inputs
from trimodal.models.foreign import run_forward
from trimodal.models.model import Batch

KINDS = ("query", "key", "value")
_CROSS = "cross"


@dataclass(frozen=True)
class AttentionPlace:
    """The self-attention of one block: by role the paths of its layers, the heads of keys and values, and how many query heads read
    from each of those. `interleaved`: query, key and value of one head stand together in the one layer that makes all."""

    block: str
    paths: Mapping[str, str]
    heads: int
    group: int
    interleaved: bool = False

    def part_outputs(self, made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Queries, keys and values (batch, tokens, width) from what each layer, by its role, has put out."""
        if "qkv" in made:
            whole = made["qkv"]
            if self.interleaved:
                parts = whole.unflatten(-1, (self.heads, 3, -1))
                return {kind: parts[..., at, :].flatten(-2) for at, kind in enumerate(KINDS)}
            unit = whole.shape[-1] // (self.group + 2)
            return dict(zip(KINDS, whole.split((self.group * unit, unit, unit), dim=-1), strict=True))
        if "kv" in made:
            keys, values = made["kv"].chunk(2, dim=-1)
            return {"query": made["query"], "key": keys, "value": values}
        return {kind: made[kind] for kind in KINDS}


def find_attentions(layout: Layout, blocks: Sequence[str]) -> dict[str, AttentionPlace]:
    """The self-attentions of the blocks at these paths, by path; blocks without one, or whose heads nobody has declared, are left out."""
    found = {}
    for block in blocks:
        own = [site for site in layout.sites if site.path.startswith(f"{block}.") and _CROSS not in site.branch]
        layers = {site.role: site for site in own if site.role in (*KINDS, "qkv", "kv") and site.kind in ("linear", "conv")}
        place = _describe(block, layers)
        if place is not None:
            found[block] = place
    return found


def _describe(block: str, layers: Mapping[str, Site]) -> AttentionPlace | None:
    paths = {role: site.path for role, site in layers.items()}
    fused = layers.get("qkv")
    if fused is not None and fused.output_axis is not None:
        axis = fused.output_axis
        interleaved = not axis.then and axis.repeats == 1
        group = axis.width // axis.then[0].width if axis.then else 1
        return AttentionPlace(block, {"qkv": paths["qkv"]}, axis.units, group, interleaved)
    keys = layers.get("key", layers.get("kv"))
    query = layers.get("query")
    if query is None or keys is None or query.output_axis is None or keys.output_axis is None:
        return None
    return AttentionPlace(block, paths, query.output_axis.units, query.output_axis.width // keys.output_axis.width)


@contextmanager
def record_outputs(module: nn.Module, paths: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """While open, every forward leaves what the module at each path has put out under the path's key in `paths`."""
    seen: dict[str, Tensor] = {}

    def keep(key: str) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            seen[key] = output if isinstance(output, Tensor) else output[0]

        return hook

    handles = [module.get_submodule(path).register_forward_hook(keep(key)) for key, path in paths.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def is_causal(module: nn.Module, block: str, batch: Batch) -> bool:
    """Whether tokens in the block at this path see none that come after them: what it gives for the first stays if the last is another."""
    outputs: list[Tensor] = []

    def change(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden, rest, named = split_block_inputs(args, kwargs)
        other = hidden.clone()
        other[:, -1] += 1.0
        if args:
            return (other, *rest), named
        return args, {name: other if value is hidden else value for name, value in kwargs.items()}

    part = module.get_submodule(block)
    keep = part.register_forward_hook(lambda _, __, output: outputs.append(output if isinstance(output, Tensor) else output[0]))
    run_forward(module, batch)
    handle = part.register_forward_pre_hook(change, with_kwargs=True)
    try:
        run_forward(module, batch)
    finally:
        handle.remove()
        keep.remove()
    before, after = outputs[0], outputs[-1]
    return before.dim() == 3 and before.shape[1] > 1 and bool(torch.equal(before[:, 0], after[:, 0]))

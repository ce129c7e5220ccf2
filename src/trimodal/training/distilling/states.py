"""What a model gives and holds inside for a batch, sample by sample, under names that say what it is.

    logits.FIELD       scores: one row per sample of class scores; of words one per token that counts
    embedding.FIELD    one row per sample
    features.BLOCK     what the block at this path gives: a row per token that is no padding
    query.BLOCK, key.BLOCK, value.BLOCK   of the block's self-attention, likewise

Everything is `Rows`: the rows of all samples one after the other, and how many each sample has. So the two models of a distillation may
pad differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trimodal.models.model import Batch, Model, Output
from trimodal.models.pooling import pool_embedding, resize_mask
from trimodal.training.distilling.attention_states import KINDS, AttentionPlace
from trimodal.training.distilling.block_outputs import find_real_tokens

Score = Callable[[Batch, Tensor], Tensor]
"""(batch with labels, scores (batch, tokens, vocabulary)) -> which of them count, bool (batch, tokens)."""


@dataclass(frozen=True)
class Rows:
    """`values` (rows, width) of several samples one after the other, and `counts`, int64 (samples,), how many each has."""

    values: Tensor
    counts: Tensor

    def split(self) -> list[Tensor]:
        """The rows of each sample, (rows, width)."""
        return list(self.values.split(self.counts.tolist()))

    def to_dense(self) -> tuple[Tensor, Tensor]:
        """(samples, longest, width) with zeros behind, and which are rows, bool (samples, longest)."""
        longest = int(self.counts.max()) if len(self.counts) else 0
        real = torch.arange(longest, device=self.values.device)[None] < self.counts[:, None].to(self.values.device)
        dense = self.values.new_zeros(*real.shape, self.values.shape[-1])
        return dense.masked_scatter(real[..., None], self.values), real

    def number_samples(self) -> Tensor:
        """The sample that each row belongs to, int64 (rows,)."""
        counts = self.counts.to(self.values.device)
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)


@dataclass(frozen=True)
class StateReader:
    """Which states of `model` are wanted: of which outputs, which blocks, which attentions; `scored` says which words' scores count."""

    model: Model
    logits: bool = False
    embeddings: bool = False
    blocks: tuple[str, ...] = ()
    attentions: Mapping[str, AttentionPlace] = field(default_factory=dict)
    scored: Score | None = None

    def list_paths(self) -> dict[str, str]:
        """The modules whose outputs are needed, by the key that `collect_states` looks for."""
        found = {f"features.{block}": block for block in self.blocks}
        for block, place in self.attentions.items():
            found |= {f"{role}@{block}": path for role, path in place.paths.items()}
        return found

    def collect_states(self, batch: Batch, result: Any, seen: Mapping[str, Tensor]) -> dict[str, Rows]:
        """The states after a forward pass that gave `result`, while `seen` was recorded at `list_paths`; `batch` may have labels."""
        outputs = self.model.family.outputs(self.model.module)
        found = {name: rows for output in outputs for name, rows in self._read_output(output, batch, result)}
        real = find_real_tokens(self.model, batch)
        for block in self.blocks:
            if f"features.{block}" in seen:
                found[f"features.{block}"] = pick_rows(seen[f"features.{block}"], real.get(block))
        for block, place in self.attentions.items():
            made = {role: seen[f"{role}@{block}"] for role in place.paths if f"{role}@{block}" in seen}
            if len(made) == len(place.paths):
                parts = place.part_outputs(made)
                found |= {f"{kind}.{block}": pick_rows(parts[kind], real.get(block)) for kind in KINDS}
        return found

    def _read_output(self, output: Output, batch: Batch, result: Any) -> list[tuple[str, Rows]]:
        value = output.select_tensor(result)
        if value is None:
            return []
        mask = batch.get(output.mask)
        if output.kind == "embedding" and self.embeddings:
            return [(f"embedding.{output.field}", pick_rows(pool_embedding(output, value, mask)[:, None], None))]
        if output.kind == "logits" and self.logits:
            return [(f"logits.{output.field}", pick_rows(value[:, None], None))]
        if output.kind == "tokens" and self.logits:
            if self.scored is not None:
                return [(f"logits.{output.field}", pick_rows(value, self.scored(batch, value)))]
            real = None if mask is None or mask.dim() != 2 else resize_mask(mask, value.shape[1]) > 0
            return [(f"logits.{output.field}", pick_rows(value, real))]
        return []


def pick_rows(states: Tensor, real: Tensor | None) -> Rows:
    """The rows of states (batch, tokens, width), or a map (batch, channels, height, width), where `real`, bool (batch, tokens), is True;
    all where it does not speak of these tokens."""
    if states.dim() == 4:
        states = states.flatten(2).transpose(1, 2)
    if states.dim() == 2:
        states = states[:, None]
    if real is None or real.shape != states.shape[:2]:
        counts = torch.full((len(states),), states.shape[1], dtype=torch.long, device=states.device)
        return Rows(states.flatten(0, 1).float(), counts)
    return Rows(states[real].float(), real.sum(dim=1))

"""The ways in which streams meet: one encoder over all tokens, pooled towers, or blocks of their own that pass a few tokens around.

B is the batch, T tokens, W the width of a tower, D that of the fusion. Streams are (B, T, W) by name, with masks (B, T) bool; one that a
sample has not is masked in all places, one that no sample has is not there. A sample's result does not depend on what is masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimodal.networks.fusion.modeling import Perceptron, pool_tokens
from trimodal.networks.multimodal.configuration import MultimodalConfig
from trimodal.networks.multimodal.towers import make_blocks

Streams = Mapping[str, Tensor]


class _Fusion(nn.Module):
    """What all ways have: a linear map from each tower's width to the fusion's."""

    def __init__(self, config: MultimodalConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.names = list(widths)
        self.config = config
        self.projectors = nn.ModuleDict({name: nn.Linear(width, config.fusion_width) for name, width in widths.items()})

    def make_blocks(self) -> nn.ModuleList:
        """As many blocks as the configuration says."""
        return make_blocks(self.config.fusion_width, self.config.fusion_blocks, self.config)


class TokenFusion(_Fusion):
    """Early and hybrid: one encoder over a class token and the tokens of all streams. In the first blocks of a hybrid, tokens look at the
    class token and at other streams only, which is cross-attention with the same weights in all directions (as LXMERT's: Tan and Bansal
    2019, arXiv 1908.07490)."""

    def __init__(self, config: MultimodalConfig, widths: Mapping[str, int]) -> None:
        super().__init__(config, widths)
        self.kinds = nn.Embedding(len(widths) + 1, config.fusion_width)  # the last row is the class token itself
        self.crossing = int(config.cross_blocks or 0) if config.fusion == "hybrid" else 0
        self.blocks = self.make_blocks()
        self.norm = nn.LayerNorm(config.fusion_width, eps=config.norm_epsilon)

    def forward(self, streams: Streams, masks: Streams) -> Tensor:
        """Streams and masks -> one vector per sample (B, D)."""
        kinds, hidden, mask = _embed_kinds(self.kinds, self.names, streams), [], []
        first = next(iter(streams.values()))
        hidden.append(kinds["class"].expand(first.shape[0], 1, -1))
        mask.append(first.new_ones(first.shape[0], 1, dtype=torch.bool))
        for name, stream in streams.items():
            hidden.append(self.projectors[name](stream) + kinds[name])
            mask.append(masks[name])
        state, allowed = torch.cat(hidden, dim=1), torch.cat(mask, dim=1)
        others = make_cross_mask([part.shape[1] for part in hidden], allowed)[:, None] if self.crossing else allowed
        for number, block in enumerate(self.blocks):
            state = block(state, others if number < self.crossing else allowed)
        return self.norm(state[:, 0])  # type: ignore[no-any-return]


class LateFusion(_Fusion):
    """Late: the mean of each tower's tokens, projected; joined by a gate that is a softmax over the streams that are there, or by a
    linear map of all of them side by side, which is the sum of the projections, scaled up for those that are missing."""

    def __init__(self, config: MultimodalConfig, widths: Mapping[str, int]) -> None:
        super().__init__(config, widths)
        width = config.fusion_width
        self.blocks = nn.ModuleList()
        self.gate = nn.Linear(width, 1) if config.joining == "gated" else None
        self.norm_2 = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.mlp = Perceptron(width, config.mlp_ratio * width)
        self.norm = nn.LayerNorm(width, eps=config.norm_epsilon)

    def pool_streams(self, streams: Streams, masks: Streams) -> dict[str, Tensor]:
        """The projected mean of each stream's real tokens, (B, D)."""
        return {name: self.projectors[name](pool_real_tokens(stream, masks[name])) for name, stream in streams.items()}

    def forward(self, streams: Streams, masks: Streams) -> Tensor:
        """Streams and masks -> one vector per sample (B, D)."""
        return self.join_pooled(self.pool_streams(streams, masks), masks)

    def join_pooled(self, pooled: Streams, masks: Streams) -> Tensor:
        """Pooled streams (B, D) and the masks of their tokens -> one vector per sample (B, D)."""
        stacked = torch.stack(list(pooled.values()), dim=1)  # (B, streams, D)
        present = torch.stack([masks[name].any(dim=1) for name in pooled], dim=1)  # (B, streams)
        if self.gate is None:
            weights = len(self.names) * _share_evenly(present, stacked.dtype)
        else:
            scores = self.gate(stacked)[:, :, 0].masked_fill(~present, torch.finfo(stacked.dtype).min)
            weights = torch.softmax(scores, dim=1) * present.to(stacked.dtype)
        hidden = (stacked * weights[:, :, None]).sum(dim=1)
        return self.norm(hidden + self.mlp(self.norm_2(hidden)))  # type: ignore[no-any-return]


class BottleneckFusion(_Fusion):
    """Layer-wise: every stream keeps blocks of its own, and at some depths they read and write a few tokens that all share, which then are
    the mean of what the streams that are there have made of them. Nagrani et al. 2021, arXiv 2107.00135 (MBT), whose class tokens are
    replaced by the mean of a stream's tokens, since not all towers have one."""

    def __init__(self, config: MultimodalConfig, widths: Mapping[str, int]) -> None:
        super().__init__(config, widths)
        self.kinds = nn.Embedding(len(widths) + 1, config.fusion_width)
        self.bottleneck = nn.Embedding(config.bottleneck_tokens, config.fusion_width)
        self.exchanging = frozenset(config.exchange_at or ())
        self.streams = nn.ModuleDict({name: self.make_blocks() for name in widths})
        self.norm = nn.LayerNorm(config.fusion_width, eps=config.norm_epsilon)

    def forward(self, streams: Streams, masks: Streams) -> Tensor:
        """Streams and masks -> one vector per sample (B, D)."""
        kinds = _embed_kinds(self.kinds, self.names, streams)
        states = {name: self.projectors[name](stream) + kinds[name] for name, stream in streams.items()}
        batch, device = next(iter(states.values())).shape[0], kinds["class"].device
        shared = (self.bottleneck(torch.arange(self.config.bottleneck_tokens, device=device)) + kinds["class"]).expand(batch, -1, -1)
        present = torch.stack([masks[name].any(dim=1) for name in states], dim=1)
        for depth in range(self.config.fusion_blocks):
            heard = [self.run_stream(name, depth, shared, states, masks[name]) for name in states]
            if depth in self.exchanging:
                shared = _mean_of_present(torch.stack(heard, dim=1), present)
        pooled = [pool_real_tokens(states[name], masks[name]) for name in states]
        return self.norm(_mean_of_present(torch.stack(pooled, dim=1), present))  # type: ignore[no-any-return]

    def run_stream(self, name: str, depth: int, shared: Tensor, states: dict[str, Tensor], mask: Tensor) -> Tensor:
        """One block of one stream, whose state (B, T, D) is replaced; what became of the `shared` tokens (B, n, D).

        Where it does not exchange, its tokens do not see the shared ones; those of a sample without the stream see nothing else.
        """
        seen = torch.ones_like(mask[:, :1]) if depth in self.exchanging else ~mask.any(dim=1, keepdim=True)
        allowed = torch.cat([seen.expand(-1, shared.shape[1]), mask], dim=1)
        blocks = cast("nn.ModuleList", self.streams[name])
        state: Tensor = blocks[depth](torch.cat([shared, states[name]], dim=1), allowed)
        states[name] = state[:, shared.shape[1] :]
        return state[:, : shared.shape[1]]


def make_fusion(config: MultimodalConfig, widths: Mapping[str, int]) -> TokenFusion | LateFusion | BottleneckFusion:
    """The fusion that `config` names, of towers with these `widths` by stream."""
    kinds = {"late": LateFusion, "layerwise": BottleneckFusion}
    return kinds.get(config.fusion, TokenFusion)(config, widths)  # type: ignore[return-value]


def make_cross_mask(lengths: list[int], allowed: Tensor) -> Tensor:
    """Which token looks at which, (B, T, T) bool, where streams of these `lengths` stand in a row: at real tokens of other streams. The
    first, which is one class token, also looks at itself, so that nobody is left without."""
    owner = torch.cat([torch.full((length,), number, device=allowed.device) for number, length in enumerate(lengths)])
    apart = (owner[:, None] != owner[None, :]) | ((owner[:, None] == 0) & (owner[None, :] == 0))
    return apart[None] & allowed[:, None, :]


def pool_real_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean over the real tokens, (B, T, D) -> (B, D); of none, zeros, whatever stands there."""
    return pool_tokens(torch.where(mask[:, :, None], hidden, 0.0), mask)


def normalise_embedding(pooled: Tensor) -> Tensor:
    """(B, D) with rows of length one."""
    return F.normalize(pooled, dim=-1)


def _embed_kinds(table: nn.Module, names: list[str], streams: Streams) -> dict[str, Tensor]:
    """The row of each stream, and that of the class token, (D,)."""
    rows = table(torch.arange(len(names) + 1, device=next(iter(streams.values())).device))
    return {**{name: rows[number] for number, name in enumerate(names)}, "class": rows[len(names)]}


def _share_evenly(present: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, streams) bool -> weights that add up to one over those that are there."""
    weight = present.to(dtype)
    return weight / weight.sum(dim=1, keepdim=True).clamp(min=1.0)


def _mean_of_present(stacked: Tensor, present: Tensor) -> Tensor:
    """(B, streams, …) -> the mean (B, …) over the streams that a sample has."""
    weights = _share_evenly(present, stacked.dtype)
    return (stacked * weights.reshape(*weights.shape, *[1] * (stacked.dim() - 2))).sum(dim=1)

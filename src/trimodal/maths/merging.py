"""Merging tokens: which token goes where, and the means that result. After ToMe (Bolya et al. 2023, arXiv 2210.09461).

A way of merging T tokens into fewer is one tensor `target` (batch, T): the place of each token among those that are
left. From it follow the merged states, the sizes, and the way back:

    tokens   a    b    c    d         target [0, 1, 0, 2]
    left    ac    b    d              sizes  [2, 1, 1]       restored [ac, b, ac, d]

A token's *size* says how many original tokens it stands for; padding has size 0, so that it is lost in any mean. All
shapes follow from the input's shape, so everything here can be exported.

By hand, four tokens with metric [1, 0], [1, 0], [0, 1], [1, 1] and one to go: A holds tokens 0 and 2, B holds 1 and 3.
The links are 0 → 1 with cosine 1 and 2 → 3 with cosine 0.7071; the first is the stronger, so 0 joins 1. What is left is
A's token 2, then B's tokens (0 with 1) and 3: target [1, 1, 0, 2], sizes [1, 2, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def match_tokens(metric: Tensor, sizes: Tensor, remove: int, protected: int = 0) -> Tensor:
    """Bipartite soft matching: `target` (batch, T) with T − `remove` places.

    The tokens after the first `protected`, which keep their places, are dealt out in turn to A and B. Each of A is
    linked to the one of B with the most similar `metric` (batch, T, width) by cosine, and along the `remove` strongest
    links A's tokens join B's. Padding of A goes first, and nothing is sent into padding of B while there is a choice.
    `sizes` is (batch, T). Order of what is left: the protected, the rest of A, B.
    With nothing to remove all stay where they are.
    """
    tokens = metric.shape[1]
    first, second = _split_alternately(tokens, protected)
    if not 0 <= remove <= len(second):
        raise ValueError(f"{remove} of {tokens} tokens cannot be merged; at most {len(second)} can")
    if remove == 0:
        return torch.arange(tokens, device=metric.device).expand(metric.shape[0], -1)
    unit = functional.normalize(metric, dim=-1)
    links = unit[:, protected::2] @ unit[:, protected + 1 :: 2].transpose(1, 2)  # (batch, A, B)
    links = links.masked_fill(sizes[:, None, protected + 1 :: 2] == 0, -2.0)
    strength, partner = links.max(dim=2)  # (batch, A)
    strength = strength.masked_fill(sizes[:, protected::2] == 0, 2.0)
    chosen = strength.topk(remove, dim=1).indices
    gone = torch.zeros_like(partner).scatter(1, chosen, torch.ones_like(chosen))
    left = len(first) - remove
    of_first = torch.where(gone > 0, left + partner, (1 - gone).cumsum(dim=1) - 1)
    of_second = (left + torch.arange(len(second), device=metric.device)).expand(metric.shape[0], -1)
    kept = torch.arange(protected, device=metric.device).expand(metric.shape[0], -1)
    found = torch.cat([kept, protected + of_first, protected + of_second], dim=1)
    order = [*range(protected), *first, *second]  # `found` speaks of the tokens in this order
    back = sorted(range(tokens), key=order.__getitem__)
    return found[:, torch.tensor(back, device=metric.device)]


def max_removable_tokens(tokens: int, protected: int = 0) -> int:
    """How many of so many tokens one round of matching can remove: half of those that are not protected."""
    return max(0, tokens - protected) // 2


def group_neighbours(tokens: int, factor: int, protected: int = 0) -> Tensor:
    """`target` (1, T) that merges every `factor` neighbours; the last group may be smaller."""
    place = torch.arange(tokens)
    return torch.where(place < protected, place, protected + (place - protected) // factor)[None]


def average_tokens(hidden: Tensor, sizes: Tensor, target: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """States (batch, `left`, width), each the mean of those merged into it weighted by their sizes, and their sizes
    (batch, `left`). `hidden` is (batch, T, width), `sizes` and `target` are (batch, T)."""
    total = sizes.new_zeros(sizes.shape[0], left).scatter_add(1, target, sizes)
    share = sizes / total.gather(1, target).clamp(min=torch.finfo(sizes.dtype).tiny)
    index = target[:, :, None].expand_as(hidden)
    weighted = hidden * share[:, :, None].to(hidden.dtype)
    return hidden.new_zeros(hidden.shape[0], left, hidden.shape[2]).scatter_add(1, index, weighted), total


def restore_tokens(hidden: Tensor, target: Tensor) -> Tensor:
    """For every original token the state of the one that it was merged into: (batch, T, width)."""
    return hidden.gather(1, target[:, :, None].expand(-1, -1, hidden.shape[2]))


def logit_bias(sizes: Tensor, proportional: bool, dtype: torch.dtype) -> Tensor:
    """What is added to every attention logit of a token (batch, T): log of its size, so that a token which stands for
    n alike gets the attention of n; without `proportional` nothing. Padding gets what lets nobody look at it."""
    bias = sizes.clamp(min=1.0).log() if proportional else torch.zeros_like(sizes)
    return bias.to(dtype).masked_fill(sizes == 0, torch.finfo(dtype).min)


def _split_alternately(tokens: int, protected: int) -> tuple[range, range]:
    """The tokens of A and of B."""
    return range(protected, tokens, 2), range(protected + 1, tokens, 2)

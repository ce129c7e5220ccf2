"""Which tokens of an image or a sound are worth reading, and what becomes of the others.

By attention (VisionZip: Yang et al. 2024, arXiv 2412.04467): those that the class token looks at most, or where there is none all
tokens. By diversity (DivPrune: Alvar et al. 2025, arXiv 2503.02175): those that are farthest from one another. Both choose anew for
every item, and as many of each.

By hand, max-min: features at the angles 0°, 10°, 90° and 180°. Distances are 1 − cosine. Each one's nearest other is at 0.0152,
0.0152, 0.8264 and 1: the last is the first that is picked. To it the others are at 2, 1.9848 and 1: 0° is next. Then 10° is at 0.0152
from what was picked, 90° at 1: 90°.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CONTEXT = 0.16  # of the tokens that are kept: VisionZip keeps 54 as they are beside 10 that stand for the rest
_ROWS_AT_ONCE = 64


def count_kept_tokens(tokens: int, share: float) -> int:
    """How many of so many `tokens` are kept when a `share` of them goes; one always is."""
    return max(1, tokens - round(tokens * share))


def measure_attention(queries: Tensor, keys: Tensor, width: int, first: bool) -> Tensor:
    """How much attention every token gets (batch, T) float32: the mean over heads, of what the `first` token gives or the mean of
    what all give. `queries` are (batch, T, heads · `width`), `keys` too, or of fewer heads that several query heads share.

    Only the rows that are asked for are computed, a few at a time.
    """
    rows = (queries[:, :1] if first else queries).unflatten(-1, (-1, width)).transpose(1, 2).float()
    columns = keys.unflatten(-1, (-1, width)).transpose(1, 2).float()
    columns = columns.repeat_interleave(rows.shape[1] // columns.shape[1], dim=1).transpose(2, 3)
    total = rows.new_zeros(rows.shape[0], columns.shape[3])
    for part in rows.split(_ROWS_AT_ONCE, dim=2):
        total = total + (part @ columns * width**-0.5).softmax(dim=-1).sum(dim=2).mean(dim=1)
    mean: Tensor = total / rows.shape[2]
    return mean


def choose_strongest(scores: Tensor, keep: int) -> Tensor:
    """The places of the `keep` largest `scores` (batch, T): int64 (batch, `keep`), ascending."""
    places: Tensor = scores.topk(keep, dim=1).indices.sort(dim=1).values
    return places


def choose_diverse(features: Tensor, keep: int) -> Tensor:
    """The places of `keep` tokens picked one by one, each the one whose nearest among those picked is farthest by cosine: int64
    (batch, `keep`), ascending. The first is the one whose nearest other is farthest. `features` are (batch, T, width)."""
    unit = functional.normalize(features.float(), dim=-1)
    distance = 1 - unit @ unit.transpose(1, 2)  # (batch, T, T)
    others = torch.eye(distance.shape[1], dtype=torch.bool, device=features.device)
    nearest = distance.masked_fill(others, torch.inf).amin(dim=2)
    picked = []
    for number in range(keep):
        found = nearest.argmax(dim=1, keepdim=True)  # (batch, 1)
        picked.append(found)
        reach = distance.gather(1, found[:, :, None].expand(-1, -1, distance.shape[2]))[:, 0]
        nearest = (reach if number == 0 else torch.minimum(nearest, reach)).scatter(1, torch.cat(picked, dim=1), -torch.inf)
    return torch.cat(picked, dim=1).sort(dim=1).values


def choose_context(kept: Tensor, tokens: int, count: int) -> Tensor:
    """The places of `count` tokens, evenly spread over those of the `tokens` that are not in `kept` (batch, n): int64 (batch,
    `count`), ascending."""
    left = tokens - kept.shape[1]
    spread = torch.arange(count, device=kept.device) * left // count
    taken = torch.zeros(kept.shape[0], tokens, dtype=torch.long, device=kept.device).scatter(1, kept, 1)
    return taken.argsort(dim=1, stable=True)[:, :left][:, spread]


def join_nearest(features: Tensor, kept: Tensor, sinks: Tensor) -> Tensor:
    """`features` (batch, T, width) in which each of the tokens at `sinks` (batch, n) is the mean of itself and of those that are
    neither at `kept` (batch, k) nor at `sinks` and are nearest to it by cosine. All others stay."""
    unit = functional.normalize(features.detach().float(), dim=-1)
    at = sinks[:, :, None].expand(-1, -1, features.shape[2])
    nearest = (unit @ unit.gather(1, at).transpose(1, 2)).argmax(dim=2)  # (batch, T)
    order = torch.arange(sinks.shape[1], device=sinks.device).expand_as(sinks)
    nearest = nearest.scatter(1, sinks, order)
    counted = features.new_ones(nearest.shape).scatter(1, kept, 0.0).scatter(1, sinks, 1.0)
    sizes = features.new_zeros(sinks.shape).scatter_add(1, nearest, counted)
    whole = torch.zeros_like(features[:, : sinks.shape[1]])
    whole = whole.scatter_add(1, nearest[:, :, None].expand_as(features), features * counted[:, :, None])
    return features.scatter(1, at, whole / sizes[:, :, None])

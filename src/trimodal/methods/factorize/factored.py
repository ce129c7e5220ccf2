"""What all methods that put two layers in place of one say alike about a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimodal.core import Change, Place, Site, Treatment
from trimodal.maths.lowrank import break_even
from trimodal.methods.method import needs_dense
from trimodal.methods.options import option


@dataclass(frozen=True)
class Rank:
    """Options that every factorization has."""

    sparsity: float = option(
        0.5, "fraction of the weight's numbers removed", low=0.0, high=1.0, search=(0.25, 0.5, 0.75)
    )
    rank: int | None = option(None, "rank to keep; replaces sparsity", low=1)


def rank_of(site: Site, config: Rank) -> int:
    """The rank for `site`: as given, or the largest that removes the fraction `sparsity` of its numbers."""
    if config.rank is not None:
        return config.rank
    return max(1, int((1 - config.sparsity) * site.rows * site.columns / (site.rows + site.columns)))


def refuse(place: Place, config: Rank) -> str | None:
    """Why a place is left alone."""
    site = place.observed
    if site.groups > 1:
        return "a grouped convolution has no single second moment"
    if site.tied:
        return f"its weight is shared with {', '.join(site.tied)}"
    if site.own_forward:
        return "its class has a forward of its own, which two plain layers cannot stand in for"
    reason = needs_dense(site)
    limit = break_even(site.rows, site.columns)
    if reason is None and rank_of(site, config) > limit:
        return f"rank {rank_of(site, config)} saves nothing at {site.rows} × {site.columns}; break-even is {limit}"
    return reason


def forecast(place: Place, config: Rank) -> Sequence[Site]:
    """Two sites, `first` and `second`, in place of one."""
    return place.observed.factored(rank_of(place.observed, config))


def factored(site: Site, first: Tensor, second: Tensor, bias: Tensor | None, notes: tuple[str, ...] = ()) -> Change:
    """Two layers with the weights `first` (k, n) and `second` (m, k) in place of `site`; for an embedding, whose weight
    (rows, width) they are to multiply to in that order, (rows, k) and (width, k)."""
    dtype: torch.dtype = getattr(torch, site.dtype)
    embedding = site.kind == "embedding"
    rank = first.shape[1 if embedding else 0]
    if not embedding:
        first = first.reshape(rank, *site.shape[1:])
        second = second.reshape(-1, rank, *(1 for _ in site.shape[2:]))
    tensors = {"first": first.to(dtype).contiguous(), "second": second.to(dtype).contiguous()}
    options = {"shape": list(site.shape), "dtype": site.dtype, "rank": rank, "embedding": embedding}
    kept_bias = None if bias is None else bias.to(dtype)
    return Change({site.path: Treatment("low_rank", options, tensors, kept_bias)}, notes=notes)

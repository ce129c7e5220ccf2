"""What all methods that put several layers in place of one say alike about a place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from trimodal.core import Certainty, Change, Place, Site, Treatment
from trimodal.core.storage import tensor_specs_of
from trimodal.errors import TrimodalError
from trimodal.maths.cholesky import safe_damping
from trimodal.maths.lowrank import break_even_rank
from trimodal.methods.method import needs_dense
from trimodal.methods.options import option
from trimodal.statistics import Moment, Statistic


@dataclass(frozen=True)
class RankOptions:
    """Options that every factorization has."""

    sparsity: float = option(
        0.5, "fraction of the weight's numbers removed", low=0.0, high=1.0, search=(0.25, 0.5, 0.75)
    )
    rank: int | None = option(None, "rank to keep; replaces sparsity", low=1)


@dataclass(frozen=True)
class EnergyRankOptions(RankOptions):
    """Options of factorizations whose rank may follow from the data.

    With `energy` every layer gets the smallest rank that keeps so much of the energy that the method ranks directions by,
    never more than `sparsity` or `rank` allow. So a plan shows the most that there can be.
    """

    energy: float | None = option(
        None, "share of the energy to keep: the rank is the least that does, up to what sparsity or rank allow",
        low=0.0, high=1.0, search=(0.9, 0.99, 0.999),
    )  # fmt: skip


class _HasEnergy(Protocol):
    """Options with an `energy`."""

    @property
    def energy(self) -> float | None: ...


def certainty(config: _HasEnergy) -> Certainty:
    """What a forecast of the bytes is worth."""
    return "exact" if config.energy is None else "at most"


def settle_rank(change: Change, config: EnergyRankOptions) -> Change:
    """`change`, and that it settles the rank where the energy decides."""
    if config.energy is None:
        return change
    ((_, treatment),) = change.treatments.items()
    rank = treatment.options["rank"]
    return replace(change, settled={"rank": rank}, notes=(*change.notes, f"rank {rank} keeps {config.energy:g} of the energy"))


def rank_of(site: Site, config: RankOptions) -> int:
    """The rank for `site`: as given, or the largest that removes the fraction `sparsity` of its numbers."""
    if config.rank is not None:
        return config.rank
    return max(1, int((1 - config.sparsity) * site.rows * site.columns / (site.rows + site.columns)))


def refuse(place: Place, config: RankOptions) -> str | None:
    """Why a place is left alone."""
    site = place.observed_site
    reason = _refuse_unfactorizable(site)
    limit = break_even_rank(site.rows, site.columns)
    if reason is None and rank_of(site, config) > limit:
        return f"rank {rank_of(site, config)} saves nothing at {site.rows} × {site.columns}; break-even is {limit}"
    return reason


def refuse_kernel(site: Site) -> str | None:
    """Why the kernel of a site cannot be taken apart, or None."""
    reason = _refuse_unfactorizable(site)
    if reason is not None:
        return reason
    if site.kind != "conv":
        return "it is no convolution; factorize.eigen works on it"
    if math.prod(site.shape[2:]) == 1:
        return "a 1 × 1 convolution has no kernel to take apart; factorize.eigen works on it"
    return None


def refuse_costly(site: Site, kind: str, ranks: Mapping[str, Any]) -> str | None:
    """Why a chain of `kind` does not pay at `site`, or None."""
    numbers, whole = count_chain_numbers(site, kind, ranks), site.rows * site.columns
    if numbers < whole:
        return None
    said = " and ".join(map(str, ranks.get("ranks", [ranks.get("rank")])))
    return f"rank {said} saves nothing: {numbers:,} numbers in place of {whole:,}"


def count_chain_numbers(site: Site, kind: str, ranks: Mapping[str, Any]) -> int:
    """How many numbers the links hold that take the place of the weight."""
    return sum(math.prod(spec.shape) for spec in tensor_specs_of(kind, _storage_options(site, ranks)).values())


def _refuse_unfactorizable(site: Site) -> str | None:
    if site.is_grouped:
        return "its rows read several inputs, and have no single second moment"
    if not site.path:
        return "it is the whole model, so that nothing else can stand in its place"
    if site.tied:
        return f"its weight is shared with {', '.join(site.tied)}"
    if site.own_forward:
        return "its class has a forward of its own, which plain layers cannot stand in for"
    return needs_dense(site)


def forecast(place: Place, config: RankOptions) -> Sequence[Site]:
    """Two sites, `first` and `second`, in place of one."""
    site = place.observed_site
    return forecast_chain(site, "low_rank", {"rank": rank_of(site, config), "embedding": site.kind == "embedding"})


def forecast_chain(site: Site, kind: str, ranks: Mapping[str, Any]) -> Sequence[Site]:
    """The sites in place of one whose weight is kept as `kind` with `ranks`."""
    return site.split_into_factors(kind, _storage_options(site, ranks))


def center_second_moment(statistic: Statistic | None, bias: Tensor | None) -> Tensor | None:
    """C = E[x xᵀ] (n, n), less μ μᵀ where there is a bias to take up the error's mean; None where nothing was seen."""
    if not isinstance(statistic, Moment):
        return None
    return statistic.second if bias is None else statistic.second - torch.outer(statistic.mean, statistic.mean)


def damp_second_moment(statistic: Statistic | None, bias: Tensor | None, damping: float) -> Tensor | None:
    """`center_second_moment` in float64 with damping · mean(diag C) added to its diagonal, so that what was never seen still counts a
    little; None where nothing was seen, or nothing but zeros.

    Raises:
        TrimodalError: it holds non-finite values.
    """
    second = center_second_moment(statistic, bias)
    if second is None or not isinstance(statistic, Moment) or not second.any():
        return None
    if not second.isfinite().all():
        raise TrimodalError(
            "a second moment holds non-finite values: the model's activations overflow; give other samples"
        )
    moment = second.to(torch.float64, copy=True)
    share = safe_damping(damping, statistic.tokens, len(moment))
    moment.diagonal().add_(share * moment.diagonal().mean())
    return moment


def make_factored_change(site: Site, first: Tensor, second: Tensor, bias: Tensor | None, notes: tuple[str, ...] = ()) -> Change:
    """Two layers with the weights `first` (k, n) and `second` (m, k) in place of `site`; for an embedding, whose weight
    (rows, width) they are to multiply to in that order, (rows, k) and (width, k)."""
    embedding = site.kind == "embedding"
    ranks = {"rank": first.shape[1 if embedding else 0], "embedding": embedding}
    return make_chain_change(site, "low_rank", ranks, [first, second], bias, notes)


def make_chain_change(
    site: Site, kind: str, ranks: Mapping[str, Any], links: Sequence[Tensor], bias: Tensor | None,
    notes: tuple[str, ...] = (),
) -> Change:  # fmt: skip
    """A chain of `kind` with the weights `links` in place of `site`; they are brought into the shapes of its layers."""
    dtype: torch.dtype = getattr(torch, site.dtype)
    options = _storage_options(site, ranks)
    specs = tensor_specs_of(kind, options)
    tensors = {
        name: link.reshape(spec.shape).to(dtype).contiguous()
        for (name, spec), link in zip(specs.items(), links, strict=True)
    }
    kept_bias = None if bias is None else bias.to(dtype)
    return Change({site.path: Treatment(kind, options, tensors, kept_bias)}, notes=notes)


def _storage_options(site: Site, ranks: Mapping[str, Any]) -> dict[str, Any]:
    return {"shape": list(site.shape), "dtype": site.dtype, **ranks}

"""CP: a convolution as a chain of 1 × 1 and depthwise ones (Lebedev, Ganin, Rakhuba, Oseledets, Lempitsky 2015, arXiv
1412.6553).

Idea. Write the kernel as a sum of R separable terms. Each term mixes the input channels into one, slides a short filter
along every dimension in turn, and adds the result to the output channels: 1 × 1, depthwise d × 1, depthwise 1 × d, 1 × 1.

Problem. For the weight W (T, S, d, e) [of a Conv1d (T, S, d)]: find A (T, R), B (S, R), D (d, R), E (e, R) with
Ŵ[t, s, i, j] = Σ_r A[t, r] B[s, r] D[i, r] E[j, r] near W. With data: for C = E[x xᵀ], the second moment of the patches,
centred (C − μ μᵀ) if the layer has a bias, minimise the output's error tr((W − Ŵ) C (W − Ŵ)ᵀ).

Algorithm.
    1. with data, each of the patch's dimensions n (channels, rows, columns) gets a weight of its own: C_n (n, n), C summed
       over the diagonals of the others and with the mean diagonal 1, L_n = C_n^½; W ← W ×_n L_n, as if C were their
       Kronecker product
    2. start: turn the kernel's dimensions to their leading directions Q; of the singular triples of all d·e matrices
       W[:, :, i, j] then take the R largest; D and E hold the columns i and j of Q
    3. alternating least squares, `sweeps` times: for each factor F in turn, A last, with Z the products of the others'
       columns (the rest, R) and W_(n) the unfolding (n, the rest): F = W_(n) Z (Zᵀ Z + ridge · I)⁻¹; then F's columns
       are scaled to length 1, those of A only to find the next factor
    4. with data: B ← L⁻¹ B and so on, and A is fitted again, exactly, for the C that was seen: with
       P (R, S·d·e) the products of B, D, E: A = W C Pᵀ (P C Pᵀ)⁻¹
    5. with a bias: b += (W − Ŵ) μ                                                                       (T,)
A sum of R terms may approach W with terms that grow without bound and cancel each other (degeneracy: there is no best CP);
the ridge makes that cost. Zᵀ Z is the elementwise product of the factors' own Gram matrices, and since all other columns
have length 1 its diagonal is 1: `ridge` is relative, charges every factor in turn for the same lengths, those of the
terms, and no sweep makes ‖W − Ŵ‖² + ridge · Σ ‖term‖² larger.

Cost O(T·S·d·e·R) per factor and sweep. It holds R·(T + S + d + e) numbers and is refused where that saves nothing. Fails,
that is loses more than it saves, on kernels far from separable, and may stop in a local minimum even where an exact sum
exists (of random sums of 16 terms in 32 × 32 × 3 × 3, two of six); its depthwise layers are slow for the operations that
they save: at half the numbers it may take longer than the kernel did. Put `distill` behind it. Departs from the paper,
which fits by nonlinear least squares and without data: alternating least squares needs no second derivative, and the start
is not random, so the same weight gives the same factors. There is no `energy` as in `factorize.tucker`: terms of a CP are
not orthogonal, so they have no spectrum of which a part could be kept, and the best R terms do not hold the best R − 1.

By hand. Two channels each way and a kernel of two: W[0, 0] = (3, 4), W[1, 1] = (0, 2), else 0; R = 1. Without data the term
of length 5 stays: A = (5, 0)ᵀ, B = (1, 0)ᵀ, D = (0.6, 0.8)ᵀ, error 4 of 29. With C = diag(1, 1, 16, 16) step 1 makes the second
row's input four times as large, (0, 8), and its term stays: error 25 of 89 against 64 of 89.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimodal.core import Change, Place, Site
from trimodal.maths.cholesky import damped_inverse
from trimodal.maths.error import bias_correction, kept_share
from trimodal.maths.lowrank import leading_eigenvectors, symmetric_root
from trimodal.methods.factorize.factored import (
    RankOptions,
    count_chain_numbers,
    damp_second_moment,
    forecast_chain,
    make_chain_change,
    refuse_costly,
    refuse_kernel,
)
from trimodal.methods.method import Method, Weights
from trimodal.methods.options import option
from trimodal.statistics import Moment, Statistic, StatisticKind

_SETTLED = 1e-9


@dataclass(frozen=True)
class CpConfig(RankOptions):
    """Options of `factorize.cp`."""

    sweeps: int = option(60, "most rounds of alternating least squares", low=0, high=1000, search=(20, 60, 200))
    ridge: float = option(1e-4, "what long terms cost, against the size of the weight", low=1e-9, high=1.0,
                          search=(1e-6, 1e-4, 1e-3))  # fmt: skip
    damping: float = option(0.001, "share of the inputs' mean square that every input gets on top", low=1e-9, high=1.0)


def cp_rank_of(site: Site, config: CpConfig) -> int:
    """R for `site`: as given, or the largest that removes the fraction `sparsity` of its numbers."""
    if config.rank is not None:
        return config.rank
    return max(1, int((1 - config.sparsity) * site.rows * site.columns / count_chain_numbers(site, "cp", {"rank": 1})))


def refuse(place: Place, config: CpConfig) -> str | None:
    """Why a place is left alone."""
    site = place.observed_site
    return refuse_kernel(site) or refuse_costly(site, "cp", _rank_options(site, config))


def wants(place: Place, config: CpConfig) -> StatisticKind | None:
    """The second moment of the patches."""
    return "moment"


def forecast(place: Place, config: CpConfig) -> Sequence[Site]:
    """Three sites in place of one, or four for an image's kernel."""
    return forecast_chain(place.observed_site, "cp", _rank_options(place.observed_site, config))


def fit_cp_factors(weight: Tensor, moment: Tensor | None, rank: int, sweeps: int, ridge: float) -> list[Tensor]:
    """Steps 1 to 4 for W (T, S, d...), C (S·Πd, S·Πd) in float64 or None for I: A (T, R), B (S, R), D (d, R)..."""
    w = weight.double()
    if moment is None:
        return run_alternating_least_squares(w, init_cp_factors(w, rank), sweeps, ridge)
    roots = [symmetric_root(part) for part in _split_moment(moment, w.shape[1:])]
    scaled = w
    for dim, half in enumerate(roots, start=1):
        scaled = _multiply_mode(scaled, half, dim)
    _, *inner = run_alternating_least_squares(scaled, init_cp_factors(scaled, rank), sweeps, ridge)
    inner = [torch.linalg.solve(half, factor) for half, factor in zip(roots, inner, strict=True)]
    inner = [factor / _column_norms(factor) for factor in inner]
    products = rebuild_cp_weight([torch.eye(rank, dtype=torch.float64, device=w.device), *inner]).flatten(1)  # P (R, S·Πd)
    seen = products @ moment
    return [w.flatten(1) @ seen.T @ damped_inverse(seen @ products.T, 0.0, rank)[0], *inner]


def rebuild_cp_weight(parts: Sequence[Tensor]) -> Tensor:
    """Ŵ (T, S, d...) of A, B, D..."""
    outer, *inner = parts
    found = inner[0]
    for part in inner[1:]:
        found = found.unsqueeze(-2) * part  # (..., dim, R)
    whole: Tensor = torch.tensordot(outer, found, dims=([1], [found.dim() - 1]))
    return whole


def init_cp_factors(w: Tensor, rank: int) -> list[Tensor]:
    """Step 2: A, B, D... for W (T, S, d...)."""
    turns = []
    for dim in range(2, w.dim()):
        unfolded = w.movedim(dim, 0).flatten(1)
        turns.append(leading_eigenvectors(unfolded @ unfolded.T, w.shape[dim]))
        w = _multiply_mode(w, turns[-1].T, dim)
    at = list(torch.cartesian_prod(*(torch.arange(n) for n in w.shape[2:])).view(-1, w.dim() - 2))
    u, s, v = torch.linalg.svd(w.flatten(2).movedim(2, 0), full_matrices=False)  # (Πd, T, m), (Πd, m), (Πd, m, S)
    order = s.flatten().argsort(descending=True, stable=True)
    order = order[:rank]
    place, number = order // s.shape[1], order % s.shape[1]
    kernel = [turn[:, [int(at[p][dim]) for p in place]] for dim, turn in enumerate(turns)]
    return [(u[place, :, number] * s[place, number, None]).T, v[place, number].T, *kernel]


def run_alternating_least_squares(w: Tensor, parts: list[Tensor], sweeps: int, ridge: float) -> list[Tensor]:
    """Step 3 from the factors `parts`, each (size, rank) for its mode, of the kernel `w`; ends early where a sweep changes nothing
    any more."""
    energy, before = float(w.square().sum()), math.inf
    if energy == 0.0 or not sweeps:
        return parts
    parts = [part / _column_norms(part) for part in parts]
    grams = [part.T @ part for part in parts]
    for _ in range(sweeps):
        for mode in (*range(1, w.dim()), 0):
            gram = math.prod((g for n, g in enumerate(grams) if n != mode), start=torch.ones_like(grams[0]))
            gram.diagonal().add_(ridge)
            crossed = _contract_other_modes(w, parts, mode)
            found = torch.linalg.solve(gram, crossed.T).T
            parts[mode] = found / _column_norms(found)
            grams[mode] = parts[mode].T @ parts[mode]
        # ‖W − Ŵ‖² + ridge ‖A‖² for the A just solved for
        loss = (energy - float((crossed * found).sum())) / energy
        if before - loss < _SETTLED:
            break
        before = loss
    return [found, *parts[1:]]


def _contract_other_modes(w: Tensor, parts: Sequence[Tensor], mode: int) -> Tensor:
    """W_(n) Z (n, R): W contracted with every factor but that of `mode`, the large ones first."""
    letters = "tsij"[: w.dim()]
    found, left = w, letters
    for other in (n for n in range(w.dim()) if n != mode):
        rest = left.replace(letters[other], "").replace("r", "")
        found = torch.einsum(f"{left},{letters[other]}r->{rest}r", found, parts[other])
        left = f"{rest}r"
    return found


def _split_moment(moment: Tensor, shape: Sequence[int]) -> list[Tensor]:
    """C_n (n, n) of every dimension of a patch (S, d...), with the mean diagonal 1."""
    found = []
    whole = moment.view(*shape, *shape)
    for dim, length in enumerate(shape):
        by = whole.movedim((dim, dim + len(shape)), (0, 1)).reshape(length, length, *(2 * [moment.shape[0] // length]))
        part = by.diagonal(dim1=2, dim2=3).sum(-1)
        found.append(part / part.diagonal().mean())
    return found


def _multiply_mode(w: Tensor, matrix: Tensor, dim: int) -> Tensor:
    """W ×_n matrix: (…, n, …) -> (…, rows of the matrix, …)."""
    turned: Tensor = torch.tensordot(matrix, w, dims=([1], [dim]))
    return turned.movedim(0, dim)


def _column_norms(factor: Tensor) -> Tensor:
    return factor.square().sum(0).sqrt().clamp(min=1e-30)


def _rank_options(site: Site, config: CpConfig) -> dict[str, Any]:
    return {"rank": cp_rank_of(site, config)}


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: CpConfig) -> Change:
    """Write the kernel of the place's site as a sum of separable terms."""
    site, ranks = place.observed_site, _rank_options(place.observed_site, config)
    weight, bias = weights[f"{site.path}.weight"], weights.get(f"{site.path}.bias")
    moment = damp_second_moment(statistic, bias, config.damping)
    parts = fit_cp_factors(weight, moment, ranks["rank"], config.sweeps, config.ridge)
    found, whole = rebuild_cp_weight(parts).flatten(1), weight.flatten(1).double()
    if bias is not None and isinstance(statistic, Moment):
        bias = bias + bias_correction(whole, found, statistic.mean)
    outer, *inner = parts
    note = f"{kept_share(whole, found, moment):.4f} of the output's energy kept"
    return make_chain_change(site, "cp", ranks, [*(part.T for part in inner), outer], bias, (note,))


METHOD = Method(
    name="factorize.cp",
    kind="factorize",
    paper="Lebedev et al. 2015, arXiv 1412.6553; alternating least squares with a ridge, the last factor fitted to inputs",
    idea="Write a convolution as a sum of separable terms: 1 × 1, a short filter along each dimension, 1 × 1.",
    config=CpConfig,
    refuse=refuse,
    wants=wants,
    without_data="every input counts alike",
    forecast=forecast,
    solve=solve,
)

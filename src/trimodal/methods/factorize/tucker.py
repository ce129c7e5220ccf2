"""Tucker-2: a convolution with few channels between two 1 × 1 convolutions (Kim, Park, Yoo, Choi, Yang, Shin 2016, arXiv
1511.06530).

Idea. The channels that go into a convolution, and those that come out of it, are mixtures of fewer: a 1 × 1 convolution
makes the few that are needed, the kernel works on these, and another 1 × 1 convolution spreads the result again.

Problem. The weight W (T, S, d...), with K = Π d positions of the kernel, becomes Ŵ = U · G · (V ⊗ I_K)ᵀ, short for
Ŵ[t, s, k] = Σ_ab U[t, a] G[a, b, k] V[s, b], with U (T, r₁), V (S, r₂) and the core G (r₁, r₂, K). For
C = E[x xᵀ] (S·K, S·K), the second moment of the patches, centred (C − μ μᵀ) if the layer has a bias: minimise
tr((W − Ŵ) C (W − Ŵ)ᵀ), the error of the output. Without data C = I, the paper's problem.

Algorithm.
    1. start (HOSVD in the coordinates of the inputs): C_s[s, s'] = Σ_k C[sk, s'k] / K, L = C_s^½,
       A = Σ_tk W[t, :, k] W[t, :, k]ᵀ, Z = the r₂ leading eigenvectors of L A L, V = orth(A L Z)        (S, r₂)
    2. for a given V, both U and G are known exactly. With P = (V ⊗ I_K)ᵀ:                               (r₂·K, S·K)
       M = W C Pᵀ (P C Pᵀ)⁻¹, the best weight behind V; U = the r₁ leading eigenvectors of M P C Pᵀ Mᵀ   (T, r₁)
       (the principal directions of its output), G = Uᵀ M                                               (r₁, r₂·K)
    3. `sweeps` times: V anew for the given U and G, then step 2 again. With data that is linear least squares in V, by a
       few steps of conjugate gradients from the V at hand; without, V = the r₂ leading eigenvectors of the input side of
       Uᵀ W, which is HOOI (De Lathauwer, De Moor, Vandewalle 2000).
    4. with a bias: b += (W − Ŵ) μ                                                                       (T,)
No step can make the error larger, so the result is never worse than the start. Damping adds a little of I to C: what was
never seen still counts.

The ranks follow from the shape alone, so that a plan can say the bytes: the largest that remove the fraction `sparsity`
of the numbers S·r₂ + K·r₁·r₂ + T·r₁, in the proportion that leaves the core largest. Spectra may ask for another one
(inputs that lie in few directions, for a smaller r₂): say `rank_in` and `rank_out` where that is known, or `energy`.
With `energy`, r₂ is the least for which Σ_{i≤r₂} σ_i / Σ σ_i reaches that share, σ the eigenvalues of L A L (step 1), and r₁
the same for those of W C Wᵀ, the output's, up to what `sparsity` or the given ranks allow. Each side then gives away no more
than its share, so where the channels' positions are alike and not correlated (C = C_s ⊗ I_K, and without data) the error is
at most 2 · (1 − energy) of the output's energy, if nothing else bounds the ranks.

Cost. Per sweep some 2·r₁·(S·K)²·(steps of conjugate gradients) and (r₂·K)³ operations, in float64. It pays only while the
links hold fewer numbers than the weight, and is refused otherwise. Fails, that is loses more than it saves, where spectra
are flat, as in small trained networks; 1 × 1 convolutions are left to `factorize.eigen`. Departs from the paper, which takes
the ranks from variational Bayesian matrix factorization and trains again afterwards: put `distill` behind it.

By hand. Two channels each way and a kernel of two: W[0, 0] = (3, 4), W[1, 1] = (0, 2), else 0; ranks 1 and 1. Without data
A = diag(25, 4): V = U = (1, 0)ᵀ, G = (3, 4), error 4 of 29. With C = diag(1, 1, 16, 16), the second channel being loud,
L = diag(1, 4), L A L = diag(25, 64): V = U = (0, 1)ᵀ, G = (0, 2), error 25 of 89 against 64 of 89. One channel keeps 25/29 =
0.862 of the energy without data, and 64/89 = 0.719 with it: `energy: 0.75` asks for ranks 1 and 1, or 2 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trimodal.core import Change, Place, Site
from trimodal.maths.cholesky import damped_inverse
from trimodal.maths.error import bias_correction, kept_share
from trimodal.maths.lowrank import choose_rank, leading_eigenvectors, output_basis, symmetric_root
from trimodal.methods.factorize.factored import (
    certainty,
    damp_second_moment,
    forecast_chain,
    make_chain_change,
    refuse_costly,
    refuse_kernel,
)
from trimodal.methods.method import Method, Weights
from trimodal.methods.options import option
from trimodal.statistics import Moment, Statistic, StatisticKind

_GRADIENT_STEPS = 8


@dataclass(frozen=True)
class TuckerConfig:
    """Options of `factorize.tucker`."""

    sparsity: float = option(
        0.5, "fraction of the weight's numbers removed", low=0.0, high=1.0, search=(0.25, 0.5, 0.75)
    )
    rank_in: int | None = option(
        None, "channels that the kernel reads; replaces sparsity, and without rank_out no output is cut", low=1
    )
    rank_out: int | None = option(
        None, "channels that the kernel writes; replaces sparsity, and without rank_in no input is cut", low=1
    )
    energy: float | None = option(
        None, "share of the energy to keep on either side: the ranks are the least that do, up to what sparsity or ranks allow",
        low=0.0, high=1.0, search=(0.9, 0.99, 0.999),
    )  # fmt: skip
    sweeps: int = option(3, "rounds of improving both sides in turn", low=0, high=100, search=(0, 3, 20))
    damping: float = option(0.001, "share of the inputs' mean square that every input gets on top", low=1e-9, high=1.0)


def tucker_ranks_of(site: Site, config: TuckerConfig) -> tuple[int, int]:
    """r₂ and r₁ for `site`: as given, or those with the largest core that remove the fraction `sparsity` of its numbers."""
    outputs, inputs = site.shape[:2]
    if config.rank_in is not None or config.rank_out is not None:
        return min(config.rank_in or inputs, inputs), min(config.rank_out or outputs, outputs)
    kernel = math.prod(site.shape[2:])
    budget = min(int((1 - config.sparsity) * site.rows * site.columns), site.rows * site.columns - 1)
    found = (1, 1)
    for inner in range(1, inputs + 1):
        outer = min((budget - inputs * inner) // (kernel * inner + outputs), outputs)
        if outer >= 1 and inner * outer > math.prod(found):
            found = inner, outer
    return found


def refuse(place: Place, config: TuckerConfig) -> str | None:
    """Why a place is left alone."""
    site = place.observed_site
    return refuse_kernel(site) or refuse_costly(site, "tucker", _rank_options(site, config))


def wants(place: Place, config: TuckerConfig) -> StatisticKind | None:
    """The second moment of the patches."""
    return "moment"


def forecast(place: Place, config: TuckerConfig) -> Sequence[Site]:
    """Three sites, `first`, `second` and `third`, in place of one."""
    return forecast_chain(place.observed_site, "tucker", _rank_options(place.observed_site, config))


def fit_tucker_factors(
    weight: Tensor, moment: Tensor | None, ranks: tuple[int, int], sweeps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps 1 to 3 for W (T, S, K), C (S·K, S·K) in float64 or None for I, ranks r₂ and r₁: V (S, r₂), G (r₁, r₂, K),
    U (T, r₁)."""
    w = weight.double()
    v = init_input_factor(w, moment, ranks[0])
    u, g = fit_output_and_core(w, moment, v, ranks[1])
    for _ in range(sweeps):
        v = _orthonormalize_columns(_improve_input_factor(w, moment, u, g, v))
        u, g = fit_output_and_core(w, moment, v, ranks[1])
    return v, g, u


def rebuild_tucker_weight(v: Tensor, g: Tensor, u: Tensor) -> Tensor:
    """Ŵ (T, S, K)."""
    return torch.einsum("ta,abk,sb->tsk", u, g, v)


def choose_tucker_ranks(w: Tensor, moment: Tensor | None, energy: float | None, most: tuple[int, int]) -> tuple[int, int]:
    """The least r₂ and r₁ that keep the share `energy` of either side of W (T, S, K), but no more than `most`."""
    if energy is None:
        return most
    inputs = w.transpose(0, 1).flatten(1)
    half = (
        torch.eye(len(inputs), dtype=w.dtype, device=w.device)
        if moment is None
        else symmetric_root(_channel_moment(moment, len(inputs)))
    )
    inner = output_basis(half, inputs @ inputs.T)[0]  # σ, of L A L
    outer = output_basis(w.flatten(1), moment)[0]
    return choose_rank(inner, energy, most[0]), choose_rank(outer, energy, most[1])


def init_input_factor(w: Tensor, moment: Tensor | None, rank: int) -> Tensor:
    """Step 1: V (S, r₂)."""
    unfolded = w.transpose(0, 1).flatten(1)  # (S, T·K)
    gram = unfolded @ unfolded.T
    if moment is None:
        return leading_eigenvectors(gram, rank)
    half = symmetric_root(_channel_moment(moment, w.shape[1]))
    return _orthonormalize_columns(gram @ half @ leading_eigenvectors(half @ gram @ half, rank))


def fit_output_and_core(w: Tensor, moment: Tensor | None, v: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Step 2: U (T, r₁) and G (r₁, r₂, K) that are best for V (S, r₂), whose columns are orthonormal."""
    inputs, kernel = w.shape[1:]
    if moment is None:
        best = crossed = torch.einsum("tsk,sb->tbk", w, v).flatten(1)
    else:
        seen = (w.flatten(1) @ moment).view_as(w)
        crossed = torch.einsum("tsk,sb->tbk", seen, v).flatten(1)  # W C Pᵀ (T, r₂·K)
        blocks = moment.view(inputs, kernel, inputs, kernel)
        half = torch.einsum("skuj,uc->skcj", blocks, v)
        projected = torch.einsum("skcj,sb->bkcj", half, v).reshape(v.shape[1] * kernel, -1)  # P C Pᵀ
        best = crossed @ damped_inverse(projected, 0.0, len(projected))[0]  # M
    u = leading_eigenvectors(best @ crossed.T, rank)
    return u, (u.T @ best).view(rank, v.shape[1], kernel)


def _improve_input_factor(w: Tensor, moment: Tensor | None, u: Tensor, g: Tensor, v: Tensor) -> Tensor:
    """Step 3: a better V (S, r₂) for the given U and G."""
    turned = torch.einsum("tsk,ta->ask", w, u)  # Uᵀ W
    if moment is None:
        unfolded = turned.transpose(0, 1).flatten(1)
        return leading_eigenvectors(unfolded @ unfolded.T, v.shape[1])

    def downhill(difference: Tensor) -> Tensor:
        """Half the negative gradient by V of tr(D C Dᵀ) for D (r₁, S, K)."""
        return torch.einsum("abk,ask->sb", g, (difference.flatten(1) @ moment).view_as(difference))

    def spread(change: Tensor) -> Tensor:
        return torch.einsum("abk,sb->ask", g, change)

    residual = downhill(turned - spread(v))
    direction, size = residual, float(residual.square().sum())
    for _ in range(_GRADIENT_STEPS):
        image = downhill(spread(direction))
        curvature = float((direction * image).sum())
        if curvature <= 0.0 or size == 0.0:
            break
        v, residual = v + size / curvature * direction, residual - size / curvature * image
        size, before = float(residual.square().sum()), size
        direction = residual + size / before * direction
    return v


def _channel_moment(moment: Tensor, inputs: int) -> Tensor:
    """C_s (S, S): the second moment of the channels, over the kernel's positions."""
    kernel = len(moment) // inputs
    return torch.einsum("skuk->su", moment.view(inputs, kernel, inputs, kernel)) / kernel


def _orthonormalize_columns(columns: Tensor) -> Tensor:
    found: Tensor = torch.linalg.qr(columns)[0]
    return found


def _rank_options(site: Site, config: TuckerConfig) -> dict[str, Any]:
    return {"ranks": list(tucker_ranks_of(site, config))}


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: TuckerConfig) -> Change:
    """Take the kernel of the place's site apart."""
    site = place.observed_site
    weight, bias = weights[f"{site.path}.weight"].flatten(2), weights.get(f"{site.path}.bias")  # (T, S, K)
    moment = damp_second_moment(statistic, bias, config.damping)
    ranks = choose_tucker_ranks(weight.double(), moment, config.energy, tucker_ranks_of(site, config))
    v, g, u = fit_tucker_factors(weight, moment, ranks, config.sweeps)
    found = rebuild_tucker_weight(v, g, u).flatten(1)
    whole = weight.flatten(1).double()
    if bias is not None and isinstance(statistic, Moment):
        bias = bias + bias_correction(whole, found, statistic.mean)
    note = f"{kept_share(whole, found, moment):.4f} of the output's energy kept"
    change = make_chain_change(site, "tucker", {"ranks": list(ranks)}, [v.T, g, u], bias, (note,))
    if config.energy is None:
        return change
    said = f"ranks {ranks[0]} and {ranks[1]} keep {config.energy:g} of the energy of either side"
    return replace(change, settled={"rank_in": ranks[0], "rank_out": ranks[1]}, notes=(*change.notes, said))


METHOD = Method(
    name="factorize.tucker",
    kind="factorize",
    paper="Kim et al. 2016, arXiv 1511.06530; weighted by the second moment of the patches",
    idea="Let a convolution's kernel work on few mixtures of its channels, and spread the result again.",
    config=TuckerConfig,
    refuse=refuse,
    wants=wants,
    without_data="every input counts alike",
    forecast=forecast,
    certainty=certainty,
    solve=solve,
)

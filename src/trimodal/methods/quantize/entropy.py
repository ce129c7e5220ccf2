"""Whole numbers and entropy coding: GPTQ without a bound on the codes ("Huffman-GPTQ", WaterSIC 2026, arXiv 2603.04956).

Idea. A file that is entropy-coded does not care how many codes there are, only how often each occurs. So let every
weight take any whole multiple of its column's step, and choose the steps so that each column spends its bits where the
layer's output gains most.

Problem. For W (m, n) and C = E[x xᵀ] (n, n), minimise tr((W − Ŵ) C (W − Ŵ)ᵀ) with ŵ_ij = q_ij·Δ_j, q whole numbers, and
the entropy of Q at most a given number of bits per weight.

Why these steps. GPTQ's error is Σ_j ‖e_j‖²: column j alone contributes m·(Δ_j / U_jj)² / 12, with U the upper Cholesky factor
of C⁻¹ in the order of rounding, and costs log2(1/Δ_j) bits per weight and a constant. At a given sum of bits a sum of
squares is least where all are alike: Δ_j = c·U_jj ("water-filling"). Against one step for all, the error falls by the
geometric over the arithmetic mean of 1/U_jj², whatever the order.

Algorithm.
    1. order, and U from the damped C, as in `quantize.gptq`                          U (n, n)
    2. Δ_j = c·U_jj, but at least 1/120 of the column's largest weight, since codes are int8; where the feedback brings a
       code to the bound all the same, that column's least step doubles               Δ (n,)
    3. Q by GPTQ's feedback on the grid of whole multiples                             Q (m, n)
    4. c is searched until what the codes, their tables and the steps take is the `bits` asked for: first on a tenth
       of the rows, then on all
    5. with Q kept, the steps that make the output error least solve n equations, (C ∘ QᵀQ) s = diag(Qᵀ W C). They take
       the place of Δ: at low rates, where most codes are 0, they shrink the others as the paper's LMMSE factors do

Codes, their tables and 16 bits per step are all counted. Cost O(k·m·n²) with k ≈ 5 runs of the
feedback, and O(n³). Without a second moment (embeddings, grouped convolutions, no data) all columns have one step and
every weight is rounded for itself.

The size on disk. This method *stores plain int8 codes*, a byte per weight. What makes them small is the file option
`--pack entropy`; with `--pack plain` a file is no smaller than with `quantize.rtn` at 8 bits. The record's notes give the
entropy-coded size in bits per weight.

Departs from the paper: an exact solve for the steps in place of one LMMSE factor per column; columns are coded in classes
by spread (see `maths/entropy_coding.py`), because water-filled columns differ; no bits are carried over from layer to layer.
Fails to reach high rates: int8 holds about 6 to 7 bits of entropy, then the step stops shrinking, and the notes say so.

By hand. C = [[2, 1], [1, 2]], order as given: U = [[√(2/3), −1/√6], [0, 1/√2]] (see `quantize.gptq`), so that with c = 0.5 the
steps are 0.408248 and 0.353553. W = [[0.7, 0.4]]: 0.7 → 2·0.408248 = 0.816497; e = −0.116497/√(2/3) = −0.142679, and 0.4 becomes
0.4 + e/√6 = 0.341752 → 1·0.353553. The errors −0.116497, 0.046447 cost 2·0.013572 − 2·0.005411 + 2·0.002157 = 0.020636.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimodal.core import Change, Place, Site, Treatment
from trimodal.errors import TrimodalError
from trimodal.maths.cholesky import inverse_root, revive_dead_inputs
from trimodal.maths.entropy_coding import estimate_coded_bits, shannon_entropy
from trimodal.maths.error import quadratic_form
from trimodal.maths.integers import IntegerGrid, make_integer_grid
from trimodal.methods.method import Method, Pace, Weights, needs_dense
from trimodal.methods.options import option
from trimodal.methods.quantize.gptq import round_with_feedback
from trimodal.statistics import Moment, Statistic, StatisticKind

_STEP_BITS = 16.0
_BOUND = 127
_ROOM = 120
_SAMPLE_ROWS = 64
_SAMPLE_SHARE = 10
_TRIES = 12
_NEAR = 0.003
_RIDGE = 1e-6

Encoder = Callable[[Tensor, float], tuple[Tensor, IntegerGrid]]
"""(rows of the weight, c) -> codes int8 (rows, n) and the steps."""


@dataclass(frozen=True)
class EntropyConfig:
    """Options of `quantize.entropy`."""

    bits: float = option(
        3.0, "bits per weight in an entropy-coded file, tables and steps counted; reached with `--pack entropy`",
        low=0.5, high=8.0, unit="bits", search=(1.5, 2.0, 2.5, 3.0, 4.0),
    )  # fmt: skip
    damping: float = option(0.01, "added to diag C, as a share of its mean", low=1e-6, high=1.0, search=(0.01, 0.1))
    waterfilling: bool = option(True, "a step per column by its share in the output error, or one step for all")
    refit: bool = option(True, "solve for the steps again once the codes are chosen; needs data")


def refuse(place: Place, config: EntropyConfig) -> str | None:
    """Why a place is left alone."""
    site = place.observed_site
    reason = needs_dense(site)
    if reason is None and _STEP_BITS / site.rows > config.bits / 2:
        return f"it has {site.rows} rows only: a step per column would take more than half of {config.bits:g} bits per weight"
    return reason


def wants(place: Place, config: EntropyConfig) -> StatisticKind | None:
    """The second moment of the site's input where there is one."""
    site = place.observed_site
    return "moment" if site.kind in ("linear", "conv") and site.groups == 1 else None


def forecast(place: Place, config: EntropyConfig) -> Sequence[Site]:
    """The site with a byte per weight and a step per column: what it takes in memory, and in a plain file."""
    site = place.observed_site
    return (site.store_as("integers", _storage_options(site, 0)),)


def _storage_options(site: Site, exponent: int) -> dict[str, object]:
    return {"shape": list(site.shape), "dtype": site.dtype, "exponent": exponent}


def bits_per_weight(codes: Tensor, steps: int) -> float:
    """What entropy-coded `codes` (rows, columns), their tables and so many `steps` take, per weight."""
    return (estimate_coded_bits(codes) + _STEP_BITS * steps) / codes.numel()


def make_nearest_encoder(weight: Tensor) -> Encoder:
    """Every entry of a row of `weight` (rows, columns) for itself, with one step c for all columns."""
    least = float(weight.abs().max()) / _BOUND

    def encode(rows: Tensor, c: float) -> tuple[Tensor, IntegerGrid]:
        levels = make_integer_grid(torch.full((weight.shape[1],), max(c, least, 1e-30), device=weight.device))
        return levels.encode(rows), levels

    return encode


def make_waterfilling_encoder(weight: Tensor, moment: Moment, damping: float, filling: bool = True) -> tuple[Encoder, float]:
    """Steps 1 to 3, for any rows of `weight` (m, n), and the damping that was needed; without `filling` Δ_j = c."""
    second, _ = revive_dead_inputs(moment.second)
    order = torch.sort(second.diagonal(), descending=True, stable=True).indices
    root, used = inverse_root(second[order][:, order], damping, moment.tokens)
    shares = torch.ones(len(second), device=second.device)
    if filling:
        logs = root.diagonal().log2()
        shares[order] = (logs - logs.mean().round()).exp2().float()  # c is the typical column's step, whatever unit inputs have
    least = weight.abs().amax(dim=0) / _ROOM
    single = root.float()

    def encode(rows: Tensor, c: float) -> tuple[Tensor, IntegerGrid]:
        floor = least.clone()
        while True:
            levels = make_integer_grid(torch.maximum(shares * c, floor).clamp(min=1e-30))
            codes, _ = round_with_feedback(rows, single, levels, order)
            bounded = (codes.abs() == _BOUND).any(dim=0)
            if not bounded.any():
                return codes, levels
            floor[bounded] = 2 * levels.float_steps()[0, bounded]

    return encode, used


def encode_to_target_bits(weight: Tensor, encode: Encoder, bits: float, steps: int) -> tuple[Tensor, IntegerGrid]:
    """Step 4: codes (rows, columns) of `weight` (rows, columns), and the steps, with which an entropy-coded file takes `bits` per
    weight.

    Finer steps cost about log2 bits more, so that the next c follows from the last; the search ends when it is within 0.3 %, or
    when c no longer changes what comes out.
    """
    rows = weight.shape[0]
    c = max(float(weight.std(correction=0)), 1e-30) * 2.0 ** (2.0 - bits)
    sample = max(_SAMPLE_ROWS, rows // _SAMPLE_SHARE)
    if rows > 2 * sample:
        some = weight[torch.linspace(0, rows - 1, sample).long().to(weight.device)]
        of_steps = _STEP_BITS * steps / weight.numel()  # all rows share them, not the sample's alone
        c = _search_step_size(some, encode, bits - of_steps, c, 0)[2]
    codes, levels, _ = _search_step_size(weight, encode, bits, c, steps)
    return codes, levels


def _search_step_size(weight: Tensor, encode: Encoder, bits: float, c: float, steps: int) -> tuple[Tensor, IntegerGrid, float]:
    """Codes, steps and c nearest to `bits`, by secants in log2 c that stay between the last too fine and too coarse."""
    fine, coarse = -math.inf, math.inf  # log2 c with too many bits, with too few
    best: tuple[float, Tensor, IntegerGrid, float] | None = None
    at, last = math.log2(c), None
    for _ in range(_TRIES):
        codes, levels = encode(weight, 2.0**at)
        found = bits_per_weight(codes, steps)
        if best is None or abs(found - bits) < best[0]:
            best = abs(found - bits), codes, levels, 2.0**at
        if abs(found - bits) <= _NEAR * bits:
            break
        slope = -1.0
        if last is not None and last[0] != at:
            slope = min(-0.1, max(-1.5, (found - last[1]) / (at - last[0])))
        if last is not None and last[1] == found and found < bits and codes.any():
            break  # the steps are at their least
        last = at, found
        fine, coarse = (max(fine, at), coarse) if found > bits else (fine, min(coarse, at))
        at += (bits - found) / slope
        if not fine < at < coarse:
            at = (fine + coarse) / 2
    assert best is not None
    return best[1:]


def refit_steps(weight: Tensor, codes: Tensor, levels: IntegerGrid, moment: Moment) -> IntegerGrid:
    """Step 5: the steps (columns,) with the least output error for these `codes` (rows, columns); `levels` where they are no
    better."""
    second, q = moment.second.double(), codes.double()
    used = (codes != 0).any(dim=0)
    old = levels.float_steps()[0].double()
    product = second * (q.T @ q)  # (n, n)
    target = (q * (weight.double() @ second)).sum(dim=0)  # (n,)
    product.diagonal().add_(_RIDGE * product.diagonal() + (~used).double())
    factor, failed = torch.linalg.cholesky_ex(product)
    if failed:
        return levels
    new = old + torch.cholesky_solve((target - product @ old)[:, None], factor)[:, 0]
    new = torch.where(used & (new > 0.25 * old) & (new < 4 * old), new, old)
    found = make_integer_grid(new.float())
    before, after = (quadratic_form(weight - part.decode(codes), moment.second) for part in (levels, found))
    return found if after < before else levels


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: EntropyConfig) -> Change:
    """Quantize the weight of the place's site.

    Raises:
        TrimodalError: the weight holds numbers that are not finite.
    """
    site = place.observed_site
    weight = weights[f"{site.path}.weight"].flatten(1)  # (m, n)
    moment = statistic.fill_unseen() if isinstance(statistic, Moment) else None
    if not torch.isfinite(weight).all():
        raise TrimodalError(f"quantize.entropy at {place.name}: its weight holds numbers that are not finite")
    notes: list[str] = []
    steps = weight.shape[1] if moment is not None and (config.waterfilling or config.refit) else 1
    if moment is None:
        codes, levels = encode_to_target_bits(weight, make_nearest_encoder(weight), config.bits, steps)
    else:
        encode, used = make_waterfilling_encoder(weight, moment, config.damping, config.waterfilling)
        codes, levels = encode_to_target_bits(weight, encode, config.bits, steps)
        if config.refit:
            levels = refit_steps(weight, codes, levels, moment)
        if used > config.damping:
            notes.append(f"damping raised to {used:g}")
    reached = bits_per_weight(codes, steps)
    notes.append(f"{reached:.3f} bits per weight when entropy-coded, of which codes have an entropy of {shannon_entropy(codes):.3f}")
    if abs(reached - config.bits) > 0.01 * config.bits:
        notes.append(f"{config.bits:g} bits were asked for")
    stored = levels.storage_tensors(codes)
    return Change({site.path: Treatment("integers", _storage_options(site, levels.exponent), stored)}, notes=tuple(notes))


METHOD = Method(
    name="quantize.entropy",
    kind="quantize",
    paper="WaterSIC (Huffman-GPTQ) 2026, arXiv 2603.04956",
    idea="Whole multiples of a step per column, as fine as their entropy allows; small with `--pack entropy`.",
    config=EntropyConfig,
    refuse=refuse,
    wants=wants,
    without_data="all columns have one step, and every weight is rounded for itself",
    forecast=forecast,
    pace=Pace(passes=600, products=6, cubes=8),
    solve=solve,
)

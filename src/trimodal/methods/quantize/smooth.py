"""SmoothQuant (Xiao et al. 2023, arXiv 2211.10438): weights and inputs at 8 bits, the difficulty shared between both.

Idea. A few columns of a layer's input are much larger than the rest; one range for all of it must hold them and leaves
the others few steps. Weights have no such columns. So divide column j of the input by s_j and multiply column j of the
weight by it: the product stays what it was, and both sides are easy to quantize.

Problem. For W (m, n) and rows x (n,) of the input, with c = 1/s: choose c, the grid of W/c and the grid of x·c so that
    E‖W x − Ŵ Q(x·c)‖² / E‖W x‖²,  Ŵ = round(W / c)
is least, averaged over the modalities that run through the layer.

Algorithm.
    1. a_j = max|x_j| over all modalities; of several, also the geometric mean of theirs; b_j = max_i |w_ij|   a, b (n,)
    2. for t = 0, 0.1 … 1:  s_j = a_j^t / b_j^min(t, 1−t), scaled to mean 1 in logarithms; c = 1/s in float16
           t = 0 is no smoothing; t = ½ … 1 is the paper's α; at t = 1 all columns of x·c have one range
       quantize W/c to nearest and x·c with the range that `observer` chooses (`static`), or with a range of its own per
       token (`token`); measure the error of up to 128 outputs on up to 512 real rows; keep the best t and a    c (n,)
    3. with all sampled rows: range of x·c (`static`), codes of W/c: nearest, or with `feedback` by GPTQ with the moment
       diag(c) C diag(c) of what the codes will multiply                                             Q (m, n)
    4. store codes, c, and scale and zero-point of the input; the layer then computes Ŵ Q(x·c) + b, which is what an
       int8 runtime computes (`layers/stored.py`)

The observers are those of `maths/observers.py`. `mse` counts an error in column j with ‖ŵ_j‖², which is what it does to
the output where errors in different columns have nothing to do with each other, and each modality relative to its own
output, so that the loudest one does not choose the range alone. `minmax` is no default for any layer: vision
Transformers do not survive it.

Several modalities. One c and one range for streams of different size is what destroys the quiet one (MASQuant 2026,
arXiv 2603.04800): for static ranges the record says in dB what the loudest one's smoothing would cost the one that it
fits least (`sqnr_loss`), and its error per modality is measured with both sides quantized. A layer is not told which
token is which, so there is no range per modality inside one layer; a range per token (`mode: token`) does the same and
more, and is what `auto` takes in a `fusion` tower.

Cost. O(11·(20·m·n + 512·m·n)) with at most 128 for m, and a multiplication per input entry when it runs; 16·n further
bits. Token ranges cost two more passes over the input. Fails where later inputs leave the calibrated range (`static`
clips them); below 8 bits per activation it is not enough. Embeddings and grouped convolutions are refused.

Departs from the paper, which folds 1/s into the norm before and so smooths only behind norms, with one α for the model:
here the factor is stored with the layer and multiplied explicitly. Nothing has to be folded, so every layer is smoothed,
the one after a GELU too (where most is lost), and grouped-query attention or the bias of a LayerNorm are no concern.

By hand. W = [[1, 1]], inputs (±8, ±0.5), t = ½: a = (8, 0.5), b = (1, 1); s = (√8, √0.5) = (2.828427, 0.707107), mean of
the logarithms ½·log 2, so s/√2 = (2, 0.5); c = (0.5, 2); W/c = [[2, 0.5]] and x·c = (±4, ±1): the ratio 16 of the columns
has become 4 on either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

from trimodal.core import Change, Place, Site
from trimodal.errors import TrimodalError
from trimodal.layers import CodedWeight
from trimodal.maths.observers import (
    OBSERVERS,
    Observer,
    choose_range,
    fake_quantize,
    fake_quantize_dynamic,
    grid_from_range,
)
from trimodal.maths.unseen import find_unseen_inputs
from trimodal.methods.method import Method, Weights
from trimodal.methods.options import option
from trimodal.methods.quantize import gptq, gridded
from trimodal.methods.quantize.gridded import RoundingOptions
from trimodal.statistics import ActivationSample, Moment, Statistic, StatisticKind

_STRENGTHS = [step / 10 for step in range(11)]
_SEARCH_ROWS = 512
_SEARCH_OUTPUTS = 128
_LARGEST_FACTOR = 2.0**12
_WORTH_SAYING_DB = -3.0

Rows = Mapping[str, Tensor]
"""Rows of the input (N, n) by modality."""


@dataclass(frozen=True)
class SmoothConfig(RoundingOptions):
    """Options of `quantize.smooth`."""

    activation_bits: int = option(8, "bits per entry of the input", low=4, high=8, unit="bits", search=(8, 6))
    mode: Literal["auto", "static", "token"] = option(
        "auto", "range of the input: `static`, one chosen beforehand; `token`, one per token while it runs (per sample "
        "in a convolution); `auto`, token in a fusion tower and static elsewhere", choices=("auto", "static", "token"),
        search=("auto", "token"),
    )  # fmt: skip
    observer: Observer = option("mse", "what chooses a static range", choices=OBSERVERS, search=("mse", "percentile"))
    strength: float | str = option(
        "search", "exponent of the smoothing: 0 none, 0.5 half, 1 all ranges alike; `search` tries eleven per layer",
        low=0.0, high=1.0, choices=("search",), search=("search", 0.0),
    )  # fmt: skip
    feedback: bool = option(False, "choose codes with GPTQ's feedback instead of the nearest", search=(False, True))
    damping: float = option(0.01, "added to diag C for the feedback, as a share of its mean", low=1e-6, high=1.0,
                            search=(0.01, 0.1))  # fmt: skip


def refuse(place: Place, config: SmoothConfig) -> str | None:
    """Why a place is left alone."""
    site = place.observed_site
    if site.kind == "embedding":
        return "an embedding's input is an index, which cannot be quantized; quantize.rtn works on it"
    if site.groups > 1:
        return "a grouped convolution has no single second moment; quantize.rtn works on its weight"
    return gridded.refuse(place, config)


def wants(place: Place, config: SmoothConfig) -> StatisticKind | None:
    """Real rows of the input; none where nothing is chosen by them: a range per token and no smoothing."""
    chosen = config.feedback or config.clip == "output" or config.grid == "kmeans"
    return None if _resolve_mode(place.observed_site, config) == "token" and config.strength == 0 and not chosen else "sample"


def forecast(place: Place, config: SmoothConfig) -> tuple[Site, ...]:
    """The site on its grid, with what its input needs."""
    return tuple(gridded.forecast(place, config, **_storage_options(place.observed_site, config)))


def _storage_options(site: Site, config: SmoothConfig) -> dict[str, Any]:
    columns = {} if config.strength == 0 else {"columns": True}
    return {**columns, "inputs": {"bits": config.activation_bits, "mode": _resolve_mode(site, config)}}


def _resolve_mode(site: Site, config: SmoothConfig) -> str:
    if config.mode != "auto":
        return config.mode
    return "token" if site.tower == "fusion" or site.tied else "static"  # layers that share a weight have inputs of their own


def compute_smoothing_factors(inputs: Tensor, weights: Tensor, strength: float, kernel: int = 1) -> Tensor:
    """Steps 1 and 2: c (n,) float16 from max|x_j| = `inputs` (n,) and max_i |w_ij| = `weights` (n,).

    The `kernel` neighbouring columns of a convolution's channel share a factor.
    """
    a, b = (v.float().view(-1, kernel).amax(dim=1) for v in (inputs, weights))
    alive = ~find_unseen_inputs(a.square()) & (b > 0)  # of an input that was all but never seen nothing is known
    if not bool(alive.any()):
        return torch.ones_like(inputs, dtype=torch.float16)
    logs = strength * a[alive].log() - min(strength, 1 - strength) * b[alive].log()
    c = torch.ones_like(a)
    c[alive] = (logs.mean() - logs).exp()
    return c.clamp(1 / _LARGEST_FACTOR, _LARGEST_FACTOR).half().repeat_interleave(kernel)


def measure_input_ranges(sample: ActivationSample) -> tuple[Tensor, ...]:
    """What a (n,) may be: max|x_j| over all rows; of several modalities also the geometric mean of theirs, which a quiet
    one shapes as much as a loud one."""
    every = _largest_magnitude(sample)
    if len(sample.parts) < 2:
        return (every,)
    logs = torch.zeros_like(every)
    for name, part in sample.parts.items():
        logs += sample.shares[name] * torch.maximum(_largest_magnitude(part), 1e-6 * every).clamp(min=1e-30).log()
    return every, logs.exp().masked_fill(every == 0, 0.0)


def _largest_magnitude(part: ActivationSample) -> Tensor:
    return torch.maximum(-part.low, part.high).clamp(min=0)


def sqnr_loss(dominant: Tensor, other: Tensor) -> float:
    """What it costs a modality, in dB ≤ 0 of its signal-to-noise ratio, to be smoothed by another's factors.

    Theorem 1 of MASQuant (2026, arXiv 2603.04800): 10·log₁₀(mean aᵢ⁻² / max aᵢ⁻²) with aᵢ = `dominant`ᵢ / `other`ᵢ, the
    ratio of both ranges (n,) in column i; 0 only where the ratio is the same in all columns. Half a bit is 3 dB.
    """
    alive = (dominant > 0) & (other > 0)
    if not bool(alive.any()):
        return 0.0
    squares = (other[alive].double() / dominant[alive].double()).square()
    return min(10 * math.log10(float(squares.mean() / squares.max())), 0.0)


@dataclass(frozen=True)
class _SampledLayer:
    """A layer with rows of its input, and how that input is to be quantized."""

    site: Site
    config: SmoothConfig
    weight: Tensor  # (m, n)
    rows: Rows
    shares: Mapping[str, float]
    energy: Mapping[str, float]  # per modality, E‖W x‖²

    @property
    def kernel(self) -> int:
        return math.prod(self.site.shape[2:])

    def take_subsample(self) -> _SampledLayer:
        """The same with few rows and few outputs, evenly taken."""
        rows = {name: _take_evenly(x, max(1, _SEARCH_ROWS // len(self.rows))) for name, x in self.rows.items()}
        return _make_layer(self.site, self.config, _take_evenly(self.weight, _SEARCH_OUTPUTS), rows, self.shares)

    def make_input_quantizer(self, c: Tensor, coded: Tensor) -> tuple[Callable[[Tensor], Tensor], dict[str, Tensor]]:
        """A function that quantizes rows x·c, and the tensors to store for it. `coded` (m, n) is what W/c decodes to."""
        bits = self.config.activation_bits
        if _resolve_mode(self.site, self.config) == "token":
            dims = (0, 1) if len(self.site.shape) > 2 else (1,)  # a convolution's range is that of the whole sample
            return (lambda x: fake_quantize_dynamic(x, bits, dims)), {}
        importance = coded.square().sum(dim=0) if self.config.observer == "mse" else torch.ones_like(coded[0])
        counts = {name: self.shares[name] / len(x) for name, x in self.rows.items()}
        if self.config.observer == "mse":
            counts = {name: count / max(self.energy[name], 1e-30) for name, count in counts.items()}
        weights = torch.cat([torch.full((len(x), 1), counts[name], device=x.device) for name, x in self.rows.items()]) * importance
        values = torch.cat(list(self.rows.values())) * c
        scale, zero = grid_from_range(*choose_range(values, bits, self.config.observer, weights), bits)
        stored = {"input_scale": scale.view(1, 1), "input_zero": zero.to(torch.uint8).view(1, 1)}
        return (lambda x: fake_quantize(x, scale, zero, bits)), stored

    def measure_errors(self, c: Tensor, coded: Tensor, quantize: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """‖x Wᵀ − Q(x·c) Ŵᵀ‖² / ‖x Wᵀ‖² per modality."""
        found = {}
        for name, x in self.rows.items():
            lost = (x @ self.weight.T - quantize(x * c) @ coded.T).square().sum(dim=1).mean()
            found[name] = float(lost) / self.energy[name] if self.energy[name] > 0 else 0.0
        return found

    def weigh_errors(self, errors: Mapping[str, float]) -> float:
        """What is to be least: the modalities' errors in balance."""
        return sum(self.shares[name] * error for name, error in errors.items())


def _take_evenly(x: Tensor, most: int) -> Tensor:
    """At most so many rows of x (k, n)."""
    return x if len(x) <= most else x[torch.linspace(0, len(x) - 1, most).long().to(x.device)]


def _make_layer(site: Site, config: SmoothConfig, weight: Tensor, rows: Rows, shares: Mapping[str, float]) -> _SampledLayer:
    energy = {name: float((x @ weight.T).square().sum(dim=1).mean()) for name, x in rows.items()}
    return _SampledLayer(site, config, weight, rows, shares, energy)


def search_smoothing(layer: _SampledLayer, sample: ActivationSample) -> dict[tuple[float, int], float]:
    """Step 2: the error of each strength t, and number of a in `measure_input_ranges`, that was tried."""
    few, found = layer.take_subsample(), {}
    for (number, inputs), strength in product(enumerate(measure_input_ranges(sample)), _STRENGTHS):
        if number and strength == 0:
            continue
        c = compute_smoothing_factors(inputs, layer.weight.abs().amax(dim=0), strength, layer.kernel).float()
        levels = gridded.fit_levels(few.weight / c, layer.config, _scale_moment(sample, c))
        coded = levels.decode(levels.encode(few.weight / c))
        found[strength, number] = few.weigh_errors(few.measure_errors(c, coded, few.make_input_quantizer(c, coded)[0]))
    return found


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: SmoothConfig) -> Change:
    """Quantize the weight of the place's site, and say how its input is quantized.

    Raises:
        TrimodalError: it was not given the statistic that `wants` asks for.
    """
    site = place.observed_site
    options = _storage_options(site, config)
    if wants(place, config) is None:
        notes = ("inputs token; the error is that of the weight alone",)
        return gridded.quantize_weight(place, weights, None, config, gridded.round_to_nearest, None, notes, **options)
    if not isinstance(statistic, ActivationSample):
        raise TrimodalError(f"quantize.smooth at {place.name} was given no sample of the layer's input")
    weight = weights[f"{site.path}.weight"].flatten(1)  # (m, n)
    layer = _make_layer(site, config, weight, {name: part.rows for name, part in statistic.parts.items()}, statistic.shares)
    strength, number = config.strength, 0
    if isinstance(strength, str):
        tried = search_smoothing(layer, statistic)
        strength, number = min(tried, key=lambda pair: tried[pair])
    factor = compute_smoothing_factors(measure_input_ranges(statistic)[number], weight.abs().amax(dim=0), strength, layer.kernel)
    c = factor.float()
    choose: gridded.Chooser
    scaled, choose = _scale_moment(statistic, c), gridded.round_to_nearest
    said = [f"smoothed with strength {strength:g}, inputs {options['inputs']['mode']}"]
    if config.feedback:
        choose, damping = gptq.make_feedback_chooser(scaled, config.damping)
        said += [f"damping raised to {damping:g}"] if damping > config.damping else []
    parts = {"columns": factor[None]} if "columns" in options else {}
    change = gridded.quantize_weight(place, weights, scaled, config, choose, parts, (), weight / c, **options)
    ((path, treatment),) = change.treatments.items()
    coded = _decode_codes(treatment.kind, treatment.options, treatment.tensors)
    quantize, stored = layer.make_input_quantizer(c, coded)
    said += _note_smoothing_loss(statistic) if stored else ()
    treatments = {path: replace(treatment, tensors={**treatment.tensors, **stored})}
    return Change(treatments, notes=tuple(said), error=layer.measure_errors(c, coded, quantize))


def _decode_codes(kind: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    """What the codes alone decode to (m, n), without the factor per column."""
    left = {"columns", "inputs"}
    bare = {name: value for name, value in options.items() if name not in left}
    coded: Tensor = CodedWeight(kind, {**bare, "dtype": "float32"}, {n: t for n, t in tensors.items() if n not in left})()
    return coded.flatten(1)


def _scale_moment(sample: ActivationSample, c: Tensor) -> Moment:
    """The moment of the inputs x·c."""
    return gridded.transform_moment(sample, lambda x: x * c)


def _note_smoothing_loss(sample: ActivationSample) -> tuple[str, ...]:
    """What the loudest modality's smoothing would cost the one that it fits least, where that is worth saying."""
    ranges = {name: _largest_magnitude(part) for name, part in sample.parts.items()}
    loudest = max(ranges, key=lambda name: float(ranges[name].mean()))
    losses = {name: sqnr_loss(ranges[loudest], other) for name, other in ranges.items()}
    worst = min(losses, key=lambda name: losses[name])
    if losses[worst] > _WORTH_SAYING_DB:
        return ()
    return (f"smoothing by {loudest} alone would cost {worst} {-losses[worst]:.1f} dB; mode token fits better here",)


METHOD = Method(
    name="quantize.smooth",
    kind="quantize",
    paper="Xiao, Lin, Seznec, Wu, Demouth, Han 2023, SmoothQuant, arXiv 2211.10438",
    idea="Quantize weights and inputs, after dividing loud input columns and multiplying the weight's by the same.",
    config=SmoothConfig,
    refuse=refuse,
    wants=wants,
    forecast=forecast,
    solve=solve,
)

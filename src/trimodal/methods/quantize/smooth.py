"""SmoothQuant (Xiao et al. 2023, arXiv 2211.10438): weights and inputs at 8 bits, the difficulty shared between both.

Idea. A few columns of a layer's input are much larger than the rest; one range for all of it must hold them and leaves
the others few steps. Weights have no such columns. So divide column j of the input by s_j and multiply column j of the
weight by it: the product stays what it was, and both sides are easy to quantize.

Problem. For W (m, n) and rows x (n,) of the input, with c = 1/s: choose c, the grid of W/c, the grid of x·c and β so that
    E‖W x − Ŵ Q(x·c) − β‖² / E‖W x‖²,  Ŵ = round(W / c)
is least, averaged over the modalities that run through the layer, and over all layers that read x.

Algorithm (what is chosen for an input, steps 1 and 2, is one for all layers that read it, see `input_ranges.py`).
    1. a_j = (E|x_j|⁸)^⅛, a maximum that no single token decides; of several modalities also the geometric mean of theirs;
       b_j² = Σ_i w_ij², each layer's rows relative to its outputs                                  a, b (n,)
    2. for t = 0, 0.3 … 1:  s_j = a_j^t / b_j^min(t, 1−t), scaled to mean 1 in logarithms; c = 1/s in float16
           t = 0 is no smoothing; t = ½ … 1 is the paper's α; at t = 1 all columns of x·c have one range
       quantize W/c to nearest and x·c with the range that `observer` chooses times a margin (`static`), or with a range of
       its own per token (`token`); a, c and the range come from one half of the rows, the error of up to 128 outputs is
       measured on the other half; keep the best t, a and margin, and make c and the range from all rows       c (n,)
       With a number as `strength` that is t, a_j = max|x_j|, b_j = max_i |w_ij|, as in the paper, and no margin
    3. codes of W/c: nearest, or with `feedback` by GPTQ with the moment diag(c) C diag(c) of what they will multiply   Q (m, n)
    4. where the layer has a bias: β = the mean over rows of what is lost, which never makes the error on them larger     β (m,)
    5. store codes, c, and scale and zero-point of the input; the layer then computes Ŵ Q(x·c) + b + β, which is what an
       int8 runtime computes (`layers/stored.py`)

`mode: choose` decides for each input: `static`, unless on the rows held back its error is more than `tolerance` times that of
8-bit weights alone (or of 1e-5, if that is more); then `token`, unless that is so too; then `float`, inputs as they are.

With `fold_factors: auto` c goes into the norm before, the value projection before an output projection, the `up` of a gated MLP: wherever
it was tried that the model computes the same (`compression/producers.py`). Then nothing is stored and nothing multiplied. Elsewhere,
as behind a GELU or where the residual stream reads the norm too, the layer keeps the factor. A convolution over images has none
then: the map between two of them is bytes, unless it has to be multiplied; and all that read one map have one range (`join_inputs`).

The observers are those of `maths/observers.py`. `mse` counts an error in column j with ‖ŵ_j‖², which is what it does to
the output where errors in different columns have nothing to do with each other, and each modality relative to its own
output, so that the loudest one does not choose the range alone. `minmax` is no default for any layer: vision
Transformers do not survive it.

Several modalities. One c and one range for streams of different size is what destroys the quiet one (MASQuant 2026,
arXiv 2603.04800): for static ranges the record says in dB what the loudest one's smoothing would cost the one that it
fits least (`sqnr_loss`), and its error per modality is measured with both sides quantized. A layer is not told which
token is which, so there is no range per modality inside one layer; a range per token (`mode: token`) does the same and
more, and is what `auto` takes in a `fusion` tower.

Cost. O(9·(20·m·n + 512·m·n)) with at most 128 for m, and a multiplication per input entry when it runs, where the factor is not
folded; 16·n further bits then. Token ranges cost two more passes over the input. Fails where later inputs leave the calibrated range
(`static` clips them); below 8 bits per activation it is not enough. Embeddings and grouped convolutions are refused.

Departs from the paper, which folds 1/s into the norm before and so smooths only behind norms, with one α for the model:
here the factor is stored with the layer where it cannot be folded, so every layer is smoothed, the one after a GELU too (where
most is lost). The bias correction is that of Nagel et al. 2019 (arXiv 1906.04721), with both sides quantized.

By hand. W = [[1, 1]], inputs (±8, ±0.5), t = ½: a = (8, 0.5), b = (1, 1); s = (√8, √0.5) = (2.828427, 0.707107), mean of
the logarithms ½·log 2, so s/√2 = (2, 0.5); c = (0.5, 2); W/c = [[2, 0.5]] and x·c = (±4, ±1): the ratio 16 of the columns
has become 4 on either side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

from trimodal.core import Certainty, Change, Place, Site
from trimodal.errors import TrimodalError
from trimodal.layers import CodedWeight
from trimodal.maths.grid import UNIFORM
from trimodal.maths.observers import OBSERVERS, Observer
from trimodal.methods.method import InputChoice, Method, SharedInputs, Weights
from trimodal.methods.options import option
from trimodal.methods.quantize import gptq, gridded
from trimodal.methods.quantize.gridded import RoundingOptions
from trimodal.methods.quantize.input_ranges import (
    MARGINS,
    SampledInput,
    compute_smoothing_factors,
    join_grids,
    make_static_grid,
    measure_tails,
    sqnr_loss,
)
from trimodal.statistics import ActivationSample, Moment, Statistic, StatisticKind

_Mode = Literal["static", "token", "float"]
_STRENGTHS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SEARCH_ROWS = 512
_SEARCH_OUTPUTS = 128
_FEEDBACK_LEAVES = 0.5  # of the weights' error, about
_SAME_FOR_ALL = 2.0  # what a weight's rounding loses is alike for all tokens and adds up over them; an input's averages out
_LEAST_FLOOR = 1e-5
_IMAGE_KERNEL = 4  # dimensions of a convolution's weight over images
_WORTH_SAYING_DB = -3.0
_FACTOR, _SCALE, _ZERO = "input.factor", "input.scale", "input.zero"  # what layers with one input are lent


@dataclass(frozen=True)
class SmoothConfig(RoundingOptions):
    """Options of `quantize.smooth`."""

    activation_bits: int = option(8, "bits per entry of the input", low=4, high=8, unit="bits", search=(8, 6))
    mode: Literal["auto", "static", "token", "float", "choose"] = option(
        "auto", "range of the input: `static`, one chosen beforehand; `token`, one per token while it runs (per sample "
        "in a convolution); `float`, inputs as they are; `auto`, token in a fusion tower and static elsewhere; `choose`, per "
        "input by its error", choices=("auto", "static", "token", "float", "choose"), search=("auto", "token"),
    )  # fmt: skip
    tolerance: float = option(8.0, "with `choose`, how many times the error of the weights alone an input may cost", low=1.0)
    observer: Observer = option("mse", "what chooses a static range", choices=OBSERVERS, search=("mse", "percentile"))
    strength: float | str = option(
        "search", "exponent of the smoothing: 0 none, 0.5 half, 1 all ranges alike; `search` tries nine per input",
        low=0.0, high=1.0, choices=("search",), search=("search", 0.0),
    )  # fmt: skip
    feedback: bool = option(False, "choose codes with GPTQ's feedback instead of the nearest", search=(False, True))
    damping: float = option(0.01, "added to diag C for the feedback, as a share of its mean", low=1e-6, high=1.0,
                            search=(0.01, 0.1))  # fmt: skip

    bias_correction: bool = option(True, "move the mean of what is lost into the bias, where there is one")
    fold_factors: Literal["never", "auto", "folded"] = option(
        "never", "`auto`: factors go into the layer or norm before where that is exact (float32), and stay with the layer "
        "elsewhere; a run settles where they are `folded`", choices=("never", "auto", "folded"),
    )  # fmt: skip


def refuse(place: Place, config: SmoothConfig) -> str | None:
    """Why a place is left alone."""
    site = place.observed_site
    if site.kind == "embedding":
        return "an embedding's input is an index, which cannot be quantized; quantize.rtn works on it"
    if site.is_grouped:
        return "its rows read several inputs, and have no single second moment; quantize.rtn and quantize.gptq work on its weight"
    return gridded.refuse(place, config)


def wants(place: Place, config: SmoothConfig) -> StatisticKind | None:
    """Real rows of the input; none where nothing is chosen by them: a range per token and no smoothing."""
    chosen = config.feedback or config.clip == "output" or config.grid == "kmeans"
    return None if _resolve_mode(place.observed_site, config) == "token" and config.strength == 0 and not chosen else "sample"


def forecast(place: Place, config: SmoothConfig) -> tuple[Site, ...]:
    """The site on its grid, with what its input needs."""
    return tuple(gridded.forecast(place, config, **_storage_options(place.observed_site, config)))


def certainty(config: SmoothConfig) -> Certainty:
    """What the forecast is worth: where ranges and folding are settled while it runs, fewer bytes may be needed."""
    return "at most" if config.mode == "choose" or config.fold_factors == "auto" else "exact"


def _storage_options(site: Site, config: SmoothConfig) -> dict[str, Any]:
    mode = _resolve_mode(site, config)
    if mode == "float":
        return {}
    columns = {} if config.strength == 0 or config.fold_factors == "folded" else {"columns": True}
    return {**columns, "inputs": {"bits": config.activation_bits, "mode": mode}}


def _resolve_mode(site: Site, config: SmoothConfig) -> _Mode:
    """The mode, where it is to be chosen the first that is tried."""
    if config.mode != "auto" and config.mode != "choose":
        return config.mode
    return "token" if site.tower == "fusion" or site.tied else "static"  # layers that share a weight have inputs of their own


@dataclass(frozen=True)
class _Candidate:
    """A strength t, the number of a in `measure_tails`, and a margin, with the error that they make on rows held back."""

    error: float
    strength: float
    tail: int = 0
    margin: float = 1.0


def search_smoothing(
    layers: SampledInput, config: SmoothConfig, mode: str, ties: Tensor | None = None, strengths: Sequence[float] = _STRENGTHS
) -> list[_Candidate]:
    """Step 2: every candidate that was tried; `ties` (n,) numbers the factors, t is of `strengths`, in mode `float` 0 alone."""
    fit, held = layers.take_rows(0, _SEARCH_ROWS), layers.take_rows(1, _SEARCH_ROWS).take_outputs(_SEARCH_OUTPUTS)
    half = {name: x[::2] if len(x) > 1 else x for name, x in layers.rows.items()}
    sizes, found = _size_columns(layers.stack_weights()), []
    for (number, tails), strength in product(enumerate(measure_tails(half, layers.shares)), strengths):
        if (number and strength == 0) or (mode == "float" and strength):
            continue
        c = compute_smoothing_factors(tails, sizes, strength, ties=ties).float()
        found += [_Candidate(error, strength, number, margin) for margin, error in _try_factors(fit, held, config, mode, c).items()]
    return found


def _try_factors(fit: SampledInput, held: SampledInput, config: SmoothConfig, mode: str, c: Tensor) -> dict[float, float]:
    """The error by margin of factors c (n,), on the rows `held` back, with ranges of the rows `fit`."""
    bits, rows = config.activation_bits, {name: x * c for name, x in held.rows.items()}
    coded = [_round_weight(w / c, config, rows, held.shares) for w in held.weights]
    weights_alone = held.average_errors(rows, coded, config.bias_correction)
    more = weights_alone * (_SAME_FOR_ALL * (_FEEDBACK_LEAVES if config.feedback else 1) - 1)
    if mode == "float":
        return {1.0: weights_alone + more}
    if mode == "token":
        return {1.0: held.average_errors(held.quantize_rows(c, bits, None), coded, config.bias_correction) + more}
    low, high = fit.choose_range(c, [w / c for w in fit.weights], bits, config.observer)
    grids = {margin: make_static_grid(low, high, margin, bits) for margin in MARGINS}
    return {
        margin: held.average_errors(held.quantize_rows(c, bits, grid), coded, config.bias_correction) + more
        for margin, grid in grids.items()
    }


def _round_weight(weight: Tensor, config: SmoothConfig, rows: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
    """`weight` (m, n) rounded to the nearest numbers of its grid, chosen for `rows` (N, n) where the grid asks for data."""
    moment = None
    if config.clip == "output" or config.grid not in UNIFORM:
        moment = Moment(weight.shape[1])
        moment.second = torch.stack([shares[name] * (x.T @ x) / len(x) for name, x in rows.items()]).sum(dim=0)
    levels = gridded.fit_levels(weight, config, moment)
    return levels.decode(levels.encode(weight))


def _size_columns(weight: Tensor) -> Tensor:
    return weight.square().mean(dim=0).sqrt()


def choose_input(
    group: Sequence[tuple[Place, Weights]], statistic: Statistic | None, config: SmoothConfig, ties: Tensor | None
) -> InputChoice:
    """Steps 1 and 2 for the layers of `group` (m, n), which read one input; see `SharedInputs.fit`.

    Raises:
        TrimodalError: there are no rows of the input.
    """
    (place, _), site = group[0], group[0][0].observed_site
    if not isinstance(statistic, ActivationSample):
        raise TrimodalError(f"quantize.smooth at {place.name} was given no sample of the layer's input")
    layers = _sample_input([weights[f"{p.observed_site.path}.weight"].flatten(1) for p, weights in group], site, statistic)
    foldable, kernel = ties is not None, math.prod(site.shape[2:])
    shared = torch.arange(site.columns) // kernel if ties is None else ties
    strengths = _list_strengths(config, foldable or len(site.shape) < _IMAGE_KERNEL)
    mode, best = _choose_candidate(layers, config, _resolve_mode(site, config), shared, strengths)
    if mode == "float":
        ones = torch.ones(site.columns, device=layers.weights[0].device)
        return InputChoice(replace(config, mode="float"), {_FACTOR: ones}, note="inputs float")
    factor = _make_factors(layers, statistic, config, best, shared)
    c = factor.float()
    tensors = {_FACTOR: c}
    if mode == "static":
        low, high = layers.choose_range(c, [w / c for w in layers.weights], config.activation_bits, config.observer)
        tensors[_SCALE], tensors[_ZERO] = make_static_grid(low, high, best.margin, config.activation_bits)
    settled = replace(config, mode=mode)
    note = f"smoothed with strength {best.strength:g}, inputs {mode}"
    if config.fold_factors == "auto" and (foldable or bool((c == 1).all())):
        return InputChoice(replace(settled, fold_factors="folded"), {**tensors, _FACTOR: torch.ones_like(c)}, c, note)
    return InputChoice(settled, tensors, None, note)


def _list_strengths(config: SmoothConfig, keeps: bool) -> Sequence[float]:
    """What t may be: 0 alone where factors are to be folded, cannot be, and are not kept either."""
    if config.fold_factors == "auto" and not keeps:
        return (0.0,)
    return _STRENGTHS if isinstance(config.strength, str) else (config.strength,)


def join_inputs(choices: Sequence[InputChoice]) -> Sequence[InputChoice]:
    """The widest of the ranges that were chosen apart for one tensor; as they are where one is not static or factors differ."""
    bits = {one.config.activation_bits for one in choices}
    if len(bits) > 1 or not all(_SCALE in one.tensors and bool((one.tensors[_FACTOR] == 1).all()) for one in choices):
        return choices
    scale, zero = join_grids([(one.tensors[_SCALE], one.tensors[_ZERO]) for one in choices], bits.pop())
    said = "one range with what reads it in other patches"
    return [replace(one, tensors={**one.tensors, _SCALE: scale, _ZERO: zero}, note=f"{one.note}, {said}") for one in choices]


def _choose_candidate(
    layers: SampledInput, config: SmoothConfig, mode: _Mode, ties: Tensor, strengths: Sequence[float]
) -> tuple[_Mode, _Candidate]:
    """The mode, by the rule of `choose` if it is to be chosen, and the best candidate in it."""
    if config.mode != "choose":
        return mode, _find_best(layers, config, mode, ties, strengths)
    floor = max(search_smoothing(layers, config, "float")[0].error, _LEAST_FLOOR)
    both: tuple[_Mode, ...] = ("token",) if mode == "token" else (mode, "token")
    for tried in both:
        best = _find_best(layers, config, tried, ties, strengths)
        if best.error <= config.tolerance * floor:
            return tried, best
    return "float", _Candidate(floor, 0.0)


def _find_best(layers: SampledInput, config: SmoothConfig, mode: str, ties: Tensor, strengths: Sequence[float]) -> _Candidate:
    if isinstance(config.strength, str) and mode != "float":
        return min(search_smoothing(layers, config, mode, ties, strengths), key=lambda candidate: candidate.error)
    strength = strengths[0]
    if config.mode != "choose":
        return _Candidate(0.0, strength)
    fit, held = layers.take_rows(0, _SEARCH_ROWS), layers.take_rows(1, _SEARCH_ROWS).take_outputs(_SEARCH_OUTPUTS)
    largest = torch.stack([x.abs().amax(dim=0) for x in layers.rows.values()]).amax(dim=0)
    c = compute_smoothing_factors(largest, layers.stack_weights().abs().amax(dim=0), strength, ties=ties).float()
    return _Candidate(_try_factors(fit, held, config, mode, c)[1.0], strength)


def _make_factors(
    layers: SampledInput, sample: ActivationSample, config: SmoothConfig, best: _Candidate, ties: Tensor
) -> Tensor:
    """c (n,) float16 of the candidate, from all that was seen."""
    stacked = layers.stack_weights()
    if isinstance(config.strength, str):
        tails = measure_tails(layers.rows, layers.shares)[best.tail]
        return compute_smoothing_factors(tails, _size_columns(stacked), best.strength, ties=ties)
    return compute_smoothing_factors(_largest_magnitude(sample), stacked.abs().amax(dim=0), best.strength, ties=ties)


def _sample_input(weights: Sequence[Tensor], site: Site, sample: ActivationSample) -> SampledInput:
    rows = {name: part.rows for name, part in sample.parts.items()}
    return SampledInput.of(weights, rows, sample.shares, len(site.shape) > 2)


def _largest_magnitude(part: ActivationSample) -> Tensor:
    return torch.maximum(-part.low, part.high).clamp(min=0)


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: SmoothConfig) -> Change:
    """Quantize the weight of the place's site, and say how its input is quantized: as it was chosen for all layers that read
    it, or else for this one alone.

    Raises:
        TrimodalError: it was not given the statistic that `wants` asks for.
    """
    site = place.observed_site
    if wants(place, config) is None:
        notes = (f"inputs {_resolve_mode(site, config)}; the error is that of the weight alone",)
        options = _storage_options(site, config)
        return gridded.quantize_weight(place, weights, None, config, gridded.round_to_nearest, None, notes, **options)
    if not isinstance(statistic, ActivationSample):
        raise TrimodalError(f"quantize.smooth at {place.name} was given no sample of the layer's input")
    said: list[str] = []
    if _FACTOR in weights:
        lent: Mapping[str, Tensor] = weights
    else:
        choice = choose_input([(place, weights)], statistic, config, None)
        lent, config, said = choice.tensors, choice.config, [choice.note]
    weight, c = weights[f"{site.path}.weight"].flatten(1), lent[_FACTOR]
    choose: gridded.Chooser
    scaled, choose = gridded.transform_moment(statistic, lambda x: x * c), gridded.round_to_nearest
    if config.feedback:
        choose, damping = gptq.make_feedback_chooser(scaled, config.damping)
        said += [f"damping raised to {damping:g}"] if damping > config.damping else []
    options = _storage_options(site, config)
    parts = {"columns": c.half()[None]} if "columns" in options else {}
    change = gridded.quantize_weight(place, weights, scaled, config, choose, parts, (), weight / c, **options)
    ((path, treatment),) = change.treatments.items()
    coded, layer = _decode_codes(treatment.kind, treatment.options, treatment.tensors), _sample_input([weight], site, statistic)
    stored, quantized = _quantize_input(layer, config, options, c, lent)
    said += _note_smoothing_loss(statistic) if stored else ()
    bias = weights.get(f"{path}.bias") if config.bias_correction else None
    shift, error = _correct_bias(layer, quantized, coded, bias is not None)
    new = None if bias is None or shift is None else (bias + shift).to(getattr(torch, site.dtype))
    treatments = {path: replace(treatment, tensors={**treatment.tensors, **stored}, bias=new)}
    settled = {"mode": config.mode, "fold_factors": config.fold_factors}
    return Change(treatments, notes=tuple(said), error=error, settled=settled)


def _correct_bias(
    layer: SampledInput, quantized: Mapping[str, Tensor], coded: Tensor, wanted: bool
) -> tuple[Tensor | None, dict[str, float]]:
    """β (m,), None where it is not `wanted` or would make the error on the rows larger; and that error by modality."""
    plain = layer.count_alike()
    shift = layer.find_bias(0, quantized, coded) if wanted else None
    without = plain.measure_errors(0, quantized, coded)
    if shift is None:
        return None, without
    error = plain.measure_errors(0, quantized, coded, shift)
    return (shift, error) if plain.weigh_errors(error) <= plain.weigh_errors(without) else (None, without)


def _quantize_input(
    layer: SampledInput, config: SmoothConfig, options: Mapping[str, Any], c: Tensor, lent: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
    """What is stored of the input's range, and the rows x·c as the layer will multiply them."""
    if "inputs" not in options:
        return {}, {name: x * c for name, x in layer.rows.items()}
    if options["inputs"]["mode"] == "token":
        return {}, layer.quantize_rows(c, config.activation_bits, None)
    scale, zero = lent[_SCALE], lent[_ZERO]
    stored = {"input_scale": scale.view(1, 1).clone(), "input_zero": zero.to(torch.uint8).view(1, 1)}
    return stored, layer.quantize_rows(c, config.activation_bits, (scale, zero))


def _decode_codes(kind: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    """What the codes alone decode to (m, n), without the factor per column."""
    left = {"columns", "inputs"}
    bare = {name: value for name, value in options.items() if name not in left}
    coded: Tensor = CodedWeight(kind, {**bare, "dtype": "float32"}, {n: t for n, t in tensors.items() if n not in left})()
    return coded.flatten(1)


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
    certainty=certainty,
    inputs=SharedInputs(folds=lambda config: config.fold_factors == "auto" and config.strength != 0, fit=choose_input, join=join_inputs),
    solve=solve,
)

"""The input of a group of layers on an 8-bit grid: factors per column, a range, and what both cost every layer.

Layers that read one input are quantized with one factor per column and one range, so that a runtime quantizes once. What is best for
all is what makes the mean of their relative errors least.

A range that is chosen on rows holds those rows: the more evenly the factors fill it, the sooner another row leaves it, in some column. So
factors and range of a candidate come from one half of the rows, and its error from the other half. What is found is
then made anew from all rows. The same halves say how much `margin` a range needs beyond its rows.

What is least is no plain mean over tokens. In MiniLM's second block one token in fourteen has 240 times the output of the others, and a
norm follows: on average hardly anything would be lost if all the others were. So a token counts for what it loses of its own output,
and one with less output than the median for what it loses of that (`weigh_tokens`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimodal.maths.observers import Observer, choose_range, fake_quantize, fake_quantize_dynamic, grid_from_range
from trimodal.maths.unseen import find_unseen_inputs

Rows = Mapping[str, Tensor]
"""Rows of the input (N, n) by modality."""

MARGINS = (1.0, 1.1, 1.2, 1.35)
_POWER = 8
_LARGEST_FACTOR = 2.0**12


@dataclass(frozen=True)
class SampledInput:
    """Rows of an input, and the weights (m, n) of the layers that read it. `shares` says what each modality counts for, `tokens`
    (N,) what each row does, 1 on average; `energies` is E‖W x‖² per layer and modality, of rows as they count. `whole`: a range at run time
    spans all rows of a sample, as in a convolution."""

    weights: Sequence[Tensor]
    rows: Rows
    shares: Mapping[str, float]
    tokens: Mapping[str, Tensor]
    energies: Sequence[Mapping[str, float]]
    whole: bool = False

    @classmethod
    def of(cls, weights: Sequence[Tensor], rows: Rows, shares: Mapping[str, float], whole: bool = False) -> SampledInput:
        """The layers with `weights` (m, n) each, on `rows` (N, n) by modality."""
        sizes = [{name: (x @ w.T).square().sum(dim=1) for name, x in rows.items()} for w in weights]
        tokens = {name: weigh_tokens([size[name] for size in sizes]) for name in rows}
        energies = [{name: float((size[name] * tokens[name]).mean()) for name in rows} for size in sizes]
        return cls(weights, rows, shares, tokens, energies, whole)

    def count_alike(self) -> SampledInput:
        """The same where every token counts the same."""
        tokens = {name: torch.ones_like(t) for name, t in self.tokens.items()}
        energies = [{name: float((x @ w.T).square().sum(dim=1).mean()) for name, x in self.rows.items()} for w in self.weights]
        return replace(self, tokens=tokens, energies=energies)

    def take_rows(self, first: int, most: int) -> SampledInput:
        """The same with every second row, from number `first` on, and no more than `most` of them over all modalities."""
        each = max(1, most // len(self.rows))
        rows = {name: _take_evenly(x[first::2] if len(x) > 1 else x, each) for name, x in self.rows.items()}
        return self.of(self.weights, rows, self.shares, self.whole)

    def take_outputs(self, most: int) -> SampledInput:
        """The same with no more than `most` outputs of all layers together, evenly taken."""
        each = max(1, most // len(self.weights))
        return self.of([_take_evenly(w, each) for w in self.weights], self.rows, self.shares, self.whole)

    def weigh_columns(self, coded: Sequence[Tensor]) -> dict[str, Tensor]:
        """How much an error in column j costs (n,) per modality, relative to the outputs; `coded` (m, n) is what W/c decodes to."""
        found = {}
        for name in self.rows:
            parts = [w.square().sum(dim=0) / max(e[name], 1e-30) for w, e in zip(coded, self.energies, strict=True)]
            found[name] = torch.stack(parts).sum(dim=0)
        return found

    def choose_range(self, c: Tensor, coded: Sequence[Tensor], bits: int, observer: Observer) -> tuple[Tensor, Tensor]:
        """The ends of the range of x·c, for `c` (n,), that `observer` chooses."""
        counts = {name: self.shares[name] / len(x) for name, x in self.rows.items()}
        each: Mapping[str, Tensor] = self.weigh_columns(coded) if observer == "mse" else {n: torch.ones_like(c) for n in self.rows}
        weights = torch.cat([each[name] * counts[name] * self.tokens[name][:, None] for name in self.rows])
        return choose_range(torch.cat(list(self.rows.values())) * c, bits, observer, weights)

    def quantize_rows(self, c: Tensor, bits: int, grid: tuple[Tensor, Tensor] | None) -> Rows:
        """x·c (N, n) as it is computed with: on the `grid` of scale and zero-point, or with None on one of its own per token."""
        dims = (0, 1) if self.whole else (1,)
        if grid is not None:
            return {name: fake_quantize(x * c, *grid, bits) for name, x in self.rows.items()}
        return {name: fake_quantize_dynamic(x * c, bits, dims) for name, x in self.rows.items()}

    def find_bias(self, number: int, quantized: Rows, coded: Tensor) -> Tensor:
        """β (m,) that added to the outputs of layer `number` makes their squared error least: the mean of what is lost, of tokens as
        they count."""
        lost, total = torch.zeros(len(coded), dtype=torch.float64, device=coded.device), 0.0
        for name, x in self.rows.items():
            weight = self.shares[name] / max(self.energies[number][name], 1e-30)
            gone = x @ self.weights[number].T - quantized[name] @ coded.T
            lost += weight * (self.tokens[name] @ gone / len(x)).double()
            total += weight
        return (lost / total).float()

    def measure_errors(self, number: int, quantized: Rows, coded: Tensor, bias: Tensor | None = None) -> dict[str, float]:
        """‖x Wᵀ − (x̂ Ŵᵀ + β)‖² / ‖x Wᵀ‖² of layer `number`, per modality, for the rows `quantized` (N, n) and tokens as they count."""
        found = {}
        for name, x in self.rows.items():
            gone = x @ self.weights[number].T - quantized[name] @ coded.T
            lost = (gone if bias is None else gone - bias).square().sum(dim=1) @ self.tokens[name] / len(x)
            energy = self.energies[number][name]
            found[name] = float(lost) / energy if energy > 0 else 0.0
        return found

    def weigh_errors(self, errors: Mapping[str, float]) -> float:
        """The modalities' errors in balance."""
        return sum(self.shares[name] * error for name, error in errors.items())

    def average_errors(self, quantized: Rows, coded: Sequence[Tensor], centred: bool) -> float:
        """What is to be least: the errors of layers `coded` (m, n) in balance, on average; `centred` without their mean, which a bias
        takes away."""
        total = 0.0
        for number, w in enumerate(coded):
            bias = self.find_bias(number, quantized, w) if centred else None
            total += self.weigh_errors(self.measure_errors(number, quantized, w, bias))
        return total / len(coded)

    def stack_weights(self) -> Tensor:
        """All layers' weights (Σm, n), each relative to the size of its outputs."""
        sizes = [sum(self.shares[name] * e[name] for name in e) for e in self.energies]
        return torch.cat([w / math.sqrt(max(size, 1e-30)) for w, size in zip(self.weights, sizes, strict=True)])


def weigh_tokens(sizes: Sequence[Tensor]) -> Tensor:
    """What each token counts for (N,), 1 on average, from ‖W x‖² (N,) of every layer: as much as the median one relative to its size,
    and no more."""
    relative = torch.stack([size / size.mean().clamp(min=1e-30) for size in sizes]).mean(dim=0)
    weights = (relative.median() / relative.clamp(min=1e-30)).clamp(max=1.0)
    return weights / weights.mean() if bool(weights.any()) else torch.ones_like(weights)


def compute_smoothing_factors(
    inputs: Tensor, weights: Tensor, strength: float, kernel: int = 1, ties: Tensor | None = None
) -> Tensor:
    """c (n,) float16 from the size a of the inputs, `inputs` (n,), and b of the weights, `weights` (n,), of every column.

    The `kernel` neighbouring columns of a convolution's channel share a factor, or else those with one number in `ties` (n,).
    """
    index = torch.arange(len(inputs)) // kernel if ties is None else ties
    index = index.to(inputs.device)
    a, b = (v.new_zeros(int(index.max()) + 1).scatter_reduce(0, index, v, "amax") for v in (inputs.float(), weights.float()))
    alive = ~find_unseen_inputs(a.square()) & (b > 0)  # of an input that was all but never seen nothing is known
    if not bool(alive.any()):
        return torch.ones_like(inputs, dtype=torch.float16)
    logs = strength * a[alive].log() - min(strength, 1 - strength) * b[alive].log()
    c = torch.ones_like(a)
    c[alive] = (logs.mean() - logs).exp()
    return c.clamp(1 / _LARGEST_FACTOR, _LARGEST_FACTOR).half()[index]


def measure_tails(rows: Rows, shares: Mapping[str, float]) -> tuple[Tensor, ...]:
    """What a (n,) may be: (E|x_j|⁸)^⅛ over all rows, a largest value that no single token decides; of several modalities also the
    geometric mean of theirs, which a quiet one shapes as much as a loud one."""
    norms = {name: _tail_norm(x) for name, x in rows.items()}
    every = torch.stack(list(norms.values())).amax(dim=0)
    if len(norms) < 2:
        return (every,)
    logs = torch.zeros_like(every)
    for name, norm in norms.items():
        logs += shares[name] * torch.maximum(norm, 1e-6 * every).clamp(min=1e-30).log()
    return every, logs.exp().masked_fill(every == 0, 0.0)


def _tail_norm(x: Tensor) -> Tensor:
    largest = x.abs().amax(dim=0)
    return largest * (x.abs() / largest.clamp(min=1e-30)).pow(_POWER).mean(dim=0).pow(1 / _POWER)


def make_static_grid(low: Tensor, high: Tensor, margin: float, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero-point, float32 scalars, of the grid of `bits` bits that reaches `margin` times as far as from `low` to `high`."""
    return grid_from_range(low * margin, high * margin, bits)


def _take_evenly(x: Tensor, most: int) -> Tensor:
    """At most so many rows of x (k, n)."""
    return x if len(x) <= most else x[torch.linspace(0, len(x) - 1, most).long().to(x.device)]

"""Fitting the layers that read a tower's stream to one with fewer dimensions; what they are given in the model and in the narrower
copy of it, `graph/stream_inputs.py` finds out.

The layers that read one norm (query, key and value; up and gate) are given the very same tensor: one *reading*. After a cut
each reading is fitted in the order in which they run, every one to what it is really given by then:

    x (T, n)    what the reading's layers are given in the model as it is
    x' (T, n')  what they are given in the narrower model, whose earlier readings are fitted already
    W', b'      minimise E‖(W x + b) − (W' x' + b')‖² + d ‖W' − W_K‖², with W_K the columns of W that stay: a ridge regression
                from E[x' x'ᵀ] (n', n') and E[x x'ᵀ] (n, n'), both with a further input that is always 1 where there is a bias

So a layer makes up for what a norm's mean and variance over fewer dimensions do, too. Costs one pass through both models
as far as the reading. d is `damping` times the mean square of x'; few tokens want more of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trimodal.core import Place, Site
from trimodal.errors import TrimodalError
from trimodal.graph.stream_inputs import (
    InputGroup,
    collect_paired_moments,
    copy_narrowed,
    set_parameters_,
    stream_width,
)
from trimodal.maths.error import quadratic_form
from trimodal.methods.method import Mix
from trimodal.models.model import Batch, Model
from trimodal.statistics import Moment

Errors = dict[str, float]


def read_weight(model: Model, site: Site) -> Tensor:
    """The weight of a site in float32."""
    layer: Any = model.module.get_submodule(site.path)
    found: Tensor = layer.weight.detach().float()
    return found


def stack_weights(model: Model, reading: InputGroup) -> Tensor:
    """The weights of an input group's layers, one below the other: float32 (rows, columns), the rows of all."""
    return torch.cat([read_weight(model, site) for site in reading.sites])


def divide_errors(lost: Mapping[str, float], whole: Mapping[str, float]) -> Errors:
    """`lost` in relation to `whole`."""
    return {name: lost[name] / whole[name] if whole[name] > 0 else 0.0 for name in lost}


def predict_errors(model: Model, readings: Sequence[InputGroup], kept: Sequence[int]) -> Errors:
    """By modality E‖Δy‖² / E‖y‖² over all layers that read the stream, if they were given the same but for what goes."""
    lost: Errors = {}
    whole: Errors = {}
    for reading in readings:
        weight = stack_weights(model, reading)
        change = weight.clone()
        change[:, list(kept)] = 0.0
        for name, moment in reading.moments.items():
            lost[name] = lost.get(name, 0.0) + quadratic_form(change, moment.second)
            whole[name] = whole.get(name, 0.0) + quadratic_form(weight, moment.second)
    return divide_errors(lost, whole)


def refit_consumers(
    model: Model, place: Place, kept: Sequence[int], tensors: Mapping[str, Tensor], readings: Sequence[InputGroup],
    batches: Sequence[Batch], mix: Mix, damping: float,
) -> tuple[dict[str, Tensor], Errors]:  # fmt: skip
    """Weights (rows, columns, …) and biases (rows,) of the layers that read the stream once it has only the dimensions `kept` and
    `tensors` have other values, by name; and by modality E‖Δy‖² / E‖Wx‖² over all of them. Embeddings that are read again stay.
    """
    narrow = copy_narrowed(model, place, kept, tensors)
    found: dict[str, Tensor] = {}
    lost: Errors = {}
    whole: Errors = {}
    for reading in readings:
        seen = collect_paired_moments(model, narrow, place, reading, kept, batches)
        both = mix(seen)
        for site in reading.sites:
            old = _append_bias(model, site)
            new = old[:, [*kept, *range(stream_width(place), old.shape[1])]].double()
            if not site.is_read_again:
                new = fit_narrow_weight(old, both, kept, damping)
                axis, label = site.output_axis, place.label or ""  # a layer that writes to the stream too is narrow on both sides
                left = new[axis.kept_entry_indices(kept, label)] if axis is not None and site.writes_label(label) else new
                own = {f"{site.path}.weight": left[:, : len(kept)].float()}
                own |= {f"{site.path}.bias": left[:, -1].float()} if site.bias else {}
                set_parameters_(narrow, own)
                found |= own
            for name, moment in seen.items():
                before = quadratic_form(old[:, : stream_width(place)], reading.moments[name].second)
                lost[name] = lost.get(name, 0.0) + measure_residual_error(old, new, moment, reading.moments[name], kept)
                whole[name] = whole.get(name, 0.0) + before
    return found, divide_errors(lost, whole)


def fit_narrow_weight(old: Tensor, seen: Moment, kept: Sequence[int], damping: float) -> Tensor:
    """(W', b') (m, n' + 1) for (W, b) (m, n + 1), or W' (m, n') for W (m, n), in float64; the ridge leaves b' free."""
    size = old.shape[1]
    columns = [*kept, *range(seen.columns - 1, size)]
    c, cross = seen.second.double()[columns][:, columns], _require_cross_moment(seen)[:size, columns]
    ridge = torch.zeros(len(columns), dtype=torch.float64, device=c.device)
    ridge[: len(kept)] = damping * c.diagonal()[: len(kept)].mean()
    target = old.double() @ cross + old.double()[:, columns] * ridge
    found: Tensor = torch.linalg.solve(c + ridge.diag(), target.T).T
    return found


def measure_residual_error(old: Tensor, new: Tensor, seen: Moment, given: Moment, kept: Sequence[int]) -> float:
    """E‖(W x + b) − (W' x' + b')‖² for what `fit_narrow_weight` takes and gives; `given` is the moment of x (n,), W is (m, n), W'
    (m, n')."""
    n, size = given.columns, old.shape[1]
    whole = torch.eye(n + 1, dtype=torch.float64, device=old.device)
    whole[:n, :n], whole[:n, n], whole[n, :n] = given.second, given.mean, given.mean
    wide = torch.zeros_like(old, dtype=torch.float64)
    wide[:, [*kept, *range(n, size)]] = new
    both = float(((old.double() @ _require_cross_moment(seen)[:size, :size]) * wide).sum())
    return max(quadratic_form(old, whole[:size, :size]) + quadratic_form(wide, seen.second[:size, :size]) - 2 * both, 0.0)


def _require_cross_moment(seen: Moment) -> Tensor:
    if seen.cross is None:
        raise TrimodalError("the inputs of the whole model were not seen beside those of the narrower one")
    return seen.cross.double()


def _append_bias(model: Model, site: Site) -> Tensor:
    """Weight (m, n), and where it has a bias that as a further column."""
    layer: Any = model.module.get_submodule(site.path)
    parts = [read_weight(model, site), *([layer.bias.detach().float()[:, None]] if site.bias else [])]
    return torch.cat(parts, dim=1)

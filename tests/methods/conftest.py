"""One layer with skewed inputs on which every method is tried, and a short way to solve it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.core import Axis, Change, Place, Site
from trimodal.core.storage import FACTORED
from trimodal.layers import make_weight_store, replace_weight_
from trimodal.methods import Method
from trimodal.methods.options import build_config
from trimodal.methods.prune.masked import forecast_sparse_site
from trimodal.statistics import Moment


@dataclass
class Layer:
    """W (m, n), the moment of its calibration inputs, and fresh inputs of the same kind."""

    weight: Tensor
    moment: Moment
    fresh: Tensor

    def error(self, after: Tensor, x: Tensor | None = None) -> float:
        """‖x(W − Ŵ)ᵀ‖² / ‖xWᵀ‖² on fresh tokens."""
        x = self.fresh if x is None else x
        return float((x @ (self.weight - after).T).square().sum() / (x @ self.weight.T).square().sum())


def _moment(x: Tensor) -> Moment:
    moment = Moment(x.shape[1])
    moment.update(x)
    return moment


def _layer(seed: int, rows: int = 64, columns: int = 96, tokens: int = 2048) -> Layer:
    """Student-t weights; inputs with eigenvalues 1/i in random directions, four columns twelve times as large."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    weight = normal(rows, columns) / (normal(6, rows, columns).square().mean(0)).sqrt()
    directions = torch.linalg.qr(normal(columns, columns))[0]
    mixing = directions * (1.0 / torch.arange(1, columns + 1)).sqrt()
    loud = torch.ones(columns)
    loud[torch.randperm(columns, generator=random)[:4]] = 12.0
    x = normal(2 * tokens, columns) @ mixing.T * loud
    return Layer(weight, _moment(x[:tokens]), x[tokens:])


def _solve(
    method: Method, weight: Tensor, moment: Moment | None, bias: Tensor | None = None, units: int = 0,
    mask: Tensor | None = None, **options: Any,
) -> Change:  # fmt: skip
    """The change that `method` makes to one layer; with `units`, to the axis that its columns carry; with `mask`, to
    what an earlier step has left of it."""
    assert method.solve is not None
    axis = Axis("text.0.units", units, weight.shape[1] // units) if units else None
    site = Site(
        "layer", "text", 0, "down", "linear" if weight.dim() == 2 else "conv", tuple(weight.shape),
        bias=bias is not None, input_axis=axis,
    )  # fmt: skip
    if mask is not None:
        (site,) = forecast_sparse_site(site, int(mask.sum()))
    place = Place("text.0.units", (site,), "text.0.units") if units else Place("text.0.down", (site,))
    config = build_config(method.config, options, method.name)
    assert method.refuse(place, config) is None
    weights = {"layer.weight": weight} | ({} if bias is None else {"layer.bias": bias})
    if mask is not None:
        weights = {**weights, "layer.weight": weight * mask, "layer.mask": mask}
    wanted = method.wants(place, config) is not None
    return method.solve(place, weights, moment if wanted else None, config)


def _decoded(change: Change) -> Tensor:
    """The weight that a change's treatment decodes to."""
    treatment = change.treatments["layer"]
    if treatment.kind == "low_rank":
        return treatment.tensors["second"].flatten(1) @ treatment.tensors["first"].flatten(1)
    if treatment.kind in FACTORED:
        shape = treatment.options["shape"]
        conv: Any = (nn.Conv1d if len(shape) == 3 else nn.Conv2d)(shape[1], shape[0], tuple(shape[2:]), bias=False)
        found: Any = replace_weight_(conv, treatment.kind, treatment.options, treatment.tensors, None).weight
        whole: Tensor = found.detach().flatten(1)
        return whole
    weight: Tensor = make_weight_store(treatment.kind, treatment.options, treatment.tensors)().detach()
    return weight


@pytest.fixture(params=[0, 1, 2])
def layer(request: pytest.FixtureRequest) -> Layer:
    return _layer(request.param)


@pytest.fixture(params=[0, 1, 2])
def large_layer(request: pytest.FixtureRequest) -> Layer:
    """The size of the research notes: a law about means needs many weights."""
    return _layer(request.param, 256, 256, 4096)


@pytest.fixture
def solve() -> Callable[..., Change]:
    return _solve


@pytest.fixture
def solved() -> Callable[..., Tensor]:
    return lambda *args, **options: _decoded(_solve(*args, **options))


@pytest.fixture
def moment_of() -> Callable[[Tensor], Moment]:
    """A moment with the given C (and mean) as if seen on many tokens."""

    def make(second: Any, mean: Any = None, tokens: int = 1000) -> Moment:
        second = torch.as_tensor(second, dtype=torch.float32)
        moment = Moment(len(second), tokens)
        moment.second = second
        if mean is not None:
            moment.mean = torch.as_tensor(mean, dtype=torch.float32)
        return moment

    return make

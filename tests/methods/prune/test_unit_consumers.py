"""What layers read from a stream, and fitting them to less of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimodal.core import Place
from trimodal.edits.cut import cut_units_
from trimodal.loading.load import build_model
from trimodal.methods.options import build_config
from trimodal.methods.prune.unit_consumers import (
    collect_stream_inputs,
    fit_narrow_weight,
    measure_residual_error,
    predict_errors,
)
from trimodal.methods.prune.width import WidthConfig, survey
from trimodal.networks.tiny import make_miniature, make_miniature_batch
from trimodal.statistics import Moment, mix_moments


def mix(parts: Any) -> Any:
    return mix_moments(parts, "modality")


def moments(x: Tensor, kept: list[int], given: Tensor | None = None) -> tuple[Moment, Moment]:
    """The moment of x, and that of (x', 1) with (x, 1); x' is x where it is not given."""
    one, wide = torch.ones(len(x), 1), torch.zeros_like(x)
    wide[:, kept] = x[:, kept] if given is None else given
    plain, both = Moment(x.shape[1]), Moment(x.shape[1] + 1)
    plain.update(x)
    both.update(torch.cat((wide, one), 1), torch.cat((x, one), 1))
    return plain, both


def test_worked_example() -> None:
    """W = [2, 1], C = [[1, 1/2], [1/2, 1]], dimension 0 stays: W' = 2 + 1/2; E‖Δy‖² = 1/4 − 1/2 + 1, as cut 1."""
    x = torch.linalg.cholesky(torch.tensor([[1.0, 0.5], [0.5, 1.0]])).T * 2**0.5  # (2 tokens, 2): xᵀx / 2 = C
    old = torch.tensor([[2.0, 1.0]])
    plain, both = moments(x, [0])
    new = fit_narrow_weight(old, both, [0], 0.0)
    assert new.tolist() == [[pytest.approx(2.5, abs=1e-6)]]
    assert measure_residual_error(old, new, both, plain, [0]) == pytest.approx(0.75, abs=1e-6)
    assert measure_residual_error(old, old[:, :1].double(), both, plain, [0]) == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_the_fit_is_that_of_least_squares_and_its_residual_what_is_measured(seed: int, bias: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 6, generator=random) @ torch.randn(6, 6, generator=random) + 1.0
    kept = [0, 2, 3, 5]
    seen = x[:, kept].tanh()
    old = torch.randn(3, 7 if bias else 6, generator=random)
    plain, both = moments(x, kept, seen)
    new = fit_narrow_weight(old, both, kept, 1e-9)
    inputs = torch.cat((seen, torch.ones(60, 1)), 1) if bias else seen
    y = torch.cat((x, torch.ones(60, 1)), 1)[:, : old.shape[1]] @ old.T
    error = (y - inputs @ new.float().T).square().sum(1).mean()
    best = (y - inputs @ torch.linalg.lstsq(inputs, y, driver="gelsd").solution).square().sum(1).mean()
    assert float(error) == pytest.approx(float(best), rel=1e-2)
    assert measure_residual_error(old, new, both, plain, kept) == pytest.approx(float(error), rel=1e-2, abs=1e-3)


def test_fit_to_all_dimensions_changes_nothing() -> None:
    x, old = torch.randn(100, 5), torch.randn(4, 6)
    plain, both = moments(x, list(range(5)))
    assert torch.allclose(fit_narrow_weight(old, both, list(range(5)), 0.1).float(), old, atol=1e-4)
    assert measure_residual_error(old, old.double(), both, plain, list(range(5))) < 1e-4


def test_layers_that_share_an_input_make_one_reading() -> None:
    model = build_model(make_miniature("llama"), "llama")
    place = Place.for_label(model.layout, "text.width")
    with torch.no_grad():
        readings = collect_stream_inputs(model, place, [make_miniature_batch("llama", 2)])
    names = [[site.name for site in reading.sites] for reading in readings]
    block = [["text.{}.query", "text.{}.key", "text.{}.value"], ["text.{}.gate", "text.{}.up"]]
    assert names == [[n.format(i) for n in part] for i in (0, 1) for part in block] + [["text.embedding"]]
    assert all(reading.moments["text"].tokens == 21 for reading in readings)  # 24, of which three are padding
    assert predict_errors(model, readings, range(32)) == {"text": 0.0}
    assert predict_errors(model, readings, [])["text"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["vit", "llama", "clip", "whisper"])
def test_fitted_layers_are_nearer_to_the_whole_model_on_other_data(name: str) -> None:
    model = build_model(make_miniature(name), name)
    batches, fresh = [make_miniature_batch(name, 24, seed) for seed in (1, 2, 3)], make_miniature_batch(name, 24, 9)
    label = next(label for label in model.layout.list_labels() if label.endswith(".width"))
    place = Place.for_label(model.layout, label)
    field = model.family.outputs(model.module)[0].field

    def lost(refit: bool) -> tuple[float, float]:
        config = build_config(WidthConfig, {"refit": refit}, "")
        with torch.no_grad():
            change = survey(model, place, batches, mix, config)
            assert change.cut is not None and change.error is not None
            cut = copy.deepcopy(model.module)
            cut_units_(cut, model.layout, label, change.cut.kept)
            for parameter, value in change.cut.tensors.items():
                cut.get_parameter(parameter).copy_(value)
            before, after = (getattr(module(**fresh), field) for module in (model.module, cut))
        return float((before - after).square().mean()), max(change.error.values())

    (plain, _), (fitted, error) = lost(False), lost(True)
    assert fitted < plain and 0 < error < 1

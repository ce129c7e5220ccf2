"""AWQ: the example by hand, its gain over rounding and GPTQ, and that what it stores undoes itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimodal.core import Place, Site
from trimodal.core.storage import stored_bytes
from trimodal.maths.error import quadratic_form
from trimodal.methods.options import build_config
from trimodal.methods.quantize import gptq, gridded, rtn
from trimodal.methods.quantize.awq import METHOD, AwqConfig, compute_column_scales, forecast, search_scaling_strength


def test_worked_example(moment_of: Any) -> None:
    square = torch.tensor([0.0016, 1.0])
    assert compute_column_scales(square, 0.0).tolist() == [1.0, 1.0]
    assert (1 / compute_column_scales(square, 0.5).float()).tolist() == pytest.approx([0.447214, 2.236068], rel=5e-4)
    config = AwqConfig(bits=2, clip="max", grid="symmetric")
    _, errors = search_scaling_strength(torch.tensor([[1.0, 0.3]]), moment_of(square.diag()), config)
    assert errors[0.0] == pytest.approx(0.04, abs=1e-6)
    assert errors[0.5] == pytest.approx(0.0001, abs=1e-6)
    assert len(errors) == 20 and max(errors) == pytest.approx(0.95)


def test_factors_do_not_depend_on_the_unit_and_stay_in_float16() -> None:
    square = torch.tensor([0.0, 1e-12, 1.0, 1e6])
    found = compute_column_scales(square, 0.95)
    assert bool(found.isfinite().all()) and bool((found > 0).all())
    assert torch.equal(found, compute_column_scales(square * 2.0**40, 0.95))
    assert torch.equal(compute_column_scales(torch.zeros(3), 0.5), torch.ones(3, dtype=torch.float16))


@pytest.mark.parametrize(("bits", "group", "grid"), [
    (3, "channel", "symmetric"), (4, "channel", "symmetric"), (3, 32, "symmetric"), (4, "channel", "positive"), (3, 32, "positive"),
])  # fmt: skip
def test_beats_rounding_and_with_feedback_gptq(layer: Any, solved: Any, bits: int, group: Any, grid: str) -> None:
    how: dict[str, Any] = {"bits": bits, "group": group, "grid": grid}
    plain = layer.error(solved(METHOD, layer.weight, layer.moment, feedback=False, **how))
    fed = layer.error(solved(METHOD, layer.weight, layer.moment, **how))
    assert plain < 0.8 * layer.error(solved(rtn.METHOD, layer.weight, None, **how))
    assert fed < 0.9 * layer.error(solved(gptq.METHOD, layer.weight, layer.moment, **how))
    assert fed < plain


@pytest.mark.parametrize("grid", ["asymmetric", "nf", "kmeans"])
def test_never_worse_than_gptq_on_what_it_saw(layer: Any, solved: Any, grid: str) -> None:
    ours, theirs = (solved(m, layer.weight, layer.moment, bits=2, grid=grid, clip="max") for m in (METHOD, gptq.METHOD))
    second = layer.moment.second
    assert quadratic_form(layer.weight - ours, second) <= quadratic_form(layer.weight - theirs, second) * (1 + 1e-6)


def test_inputs_all_alike_leave_the_weight_as_it_is(layer: Any, solved: Any, moment_of: Any) -> None:
    moment = moment_of(2 * torch.eye(96))
    found = solved(METHOD, layer.weight, moment, bits=3, feedback=False)
    assert torch.equal(found, solved(rtn.METHOD, layer.weight, None, bits=3))


def test_sixteen_bits_change_nothing_and_bytes_are_those_forecast(layer: Any, solve: Any, solved: Any) -> None:
    assert layer.error(solved(METHOD, layer.weight, layer.moment, bits=16, clip="max")) < 1e-8
    site = Site("layer", "text", 0, "down", "linear", (64, 96))
    for more in ({"bits": 3}, {"bits": 2, "grid": "kmeans"}, {"bits": 4, "group": 16, "grid": "asymmetric"}):
        options: dict[str, Any] = {"clip": "max", **more}
        (treatment,) = solve(METHOD, layer.weight, layer.moment, **options).treatments.values()
        held = sum(t.numel() * t.element_size() for t in treatment.tensors.values())
        (after,) = forecast(Place("p", (site,)), build_config(AwqConfig, options, "awq"))
        assert held == after.stored_bytes == stored_bytes(treatment.kind, treatment.options)


def test_moment_is_that_of_the_changed_input(layer: Any) -> None:
    x, factor = layer.fresh, torch.linspace(0.5, 2.0, 96)
    from trimodal.statistics import Moment

    plain, scaled = Moment(96), Moment(96)
    plain.update(x, 1.1 * x)
    scaled.update(x * factor, 1.1 * x * factor)
    found = gridded.transform_moment(plain, lambda rows: rows * factor)
    assert found.tokens == scaled.tokens and found.cross is not None and scaled.cross is not None
    for ours, theirs in ((found.second, scaled.second), (found.mean, scaled.mean), (found.cross, scaled.cross)):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("site", "word"), [
    (Site("e", "text", None, "embedding", "embedding", (64, 64)), "index"),
    (Site("c", "audio", None, "conv", "conv", (64, 2, 3), groups=16), "rows read several inputs"),
])  # fmt: skip
def test_refuses_where_there_is_no_moment(site: Site, word: str) -> None:
    assert word in (METHOD.refuse(Place("p", (site,)), AwqConfig()) or "")
    assert METHOD.without_data == ""

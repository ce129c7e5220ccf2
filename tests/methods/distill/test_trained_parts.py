"""Only what is meant is trained, and what is stored afterwards is of the stored type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.compression.solve_context import weights_of
from trimodal.core import Place
from trimodal.edits.apply import apply_change_
from trimodal.errors import RecipeError
from trimodal.layers import make_weight_store, train_scales
from trimodal.loading.load import build_model
from trimodal.methods import get_method
from trimodal.methods.distill.recover import METHOD, fit
from trimodal.methods.distill.trained_parts import free_parameters
from trimodal.methods.options import build_config
from trimodal.models.model import Model


def _make_pair(method: str = "", options: dict[str, Any] | None = None) -> tuple[Model, Model]:
    """A small model, coded if a method is named, and as it was."""
    torch.manual_seed(0)
    made = [nn.Sequential(nn.Linear(12, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 4)) for _ in "ab"]
    made[1].load_state_dict(made[0].state_dict())
    model, original = (build_model(one, "plain") for one in made)
    if method:
        used = get_method(method)
        config = build_config(used.config, options or {}, method)
        for site in [site for site in model.layout.sites if site.kind == "linear"]:
            place = Place(site.name, (site,))
            assert used.solve is not None
            apply_change_(model, place, used.solve(place, weights_of(model, place), None, config), used.forecast(place, config))
    return model, original


def _train(model: Model, original: Model, train: str, steps: int = 60) -> list[float]:
    x = torch.randn(256, 12, generator=torch.Generator().manual_seed(3))
    config = build_config(METHOD.config, {"steps": steps, "learning_rate": 3e-3, "train": train}, "here")
    found = fit(model, original, lambda size: [{"input": part} for part in x.split(64)], config, seed=0)
    return [record.losses["loss"] for record in found]


def _state(model: Model) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


@pytest.mark.parametrize(
    ("train", "moved"),
    [
        ("norms", {"1.weight", "1.bias"}),
        ("biases", {"0.bias", "3.bias"}),
        ("scales", {"0.stored.scale", "3.stored.scale"}),
        ("small", {"1.weight", "1.bias", "0.bias", "3.bias", "0.stored.scale", "3.stored.scale"}),
    ],
)
def test_only_what_is_meant_is_trained(train: str, moved: set[str]) -> None:
    model, original = _make_pair("quantize.rtn", {"bits": 2, "group": 8})
    before = _state(model)
    losses = _train(model, original, train)
    after = _state(model)
    assert losses[-1] < losses[0]
    assert {name for name in before if not torch.equal(before[name], after[name])} == moved
    assert {name: value.dtype for name, value in after.items()} == {name: value.dtype for name, value in before.items()}
    assert all(parameter.requires_grad for parameter in model.module.parameters())


@pytest.mark.parametrize(
    "options",
    [{"bits": 3}, {"bits": 3, "grid": "asymmetric", "group": 8}, {"bits": 4, "grid": "nf", "group": 8}, {"bits": 4, "group": "tensor"}],
)
def test_trained_scales_are_what_the_store_decodes(options: dict[str, Any]) -> None:
    model, _ = _make_pair("quantize.rtn", options)
    store: Any = model.module[0].stored  # type: ignore[index]
    old, exponent, was = store.scale.clone(), store.options["exponent"], store().clone()
    with train_scales(model.module) as scales:
        torch.testing.assert_close(store(), was, rtol=1e-6, atol=0)  # a power of two is taken out, nothing else
        assert 0.5 <= float(scales[0].detach().abs().max()) < 1
        with torch.no_grad():
            scales[0].mul_(1.5)
    assert store.scale.dtype == torch.float16 and store.options["exponent"] == exponent
    torch.testing.assert_close(store.scale, (old.float() * 1.5).half(), rtol=2e-3, atol=0)
    assert torch.equal(store(), make_weight_store(store.kind, store.options, dict(store.state_dict()))())


def test_scales_keep_their_sign_and_their_size_within_bounds() -> None:
    model, _ = _make_pair("quantize.rtn", {"bits": 3})
    store: Any = model.module[0].stored  # type: ignore[index]
    old = store.scale.float()
    with train_scales(model.module) as scales, torch.no_grad():
        scales[0][0] *= -1
        scales[0][1] *= 100
    torch.testing.assert_close(store.scale[0].float(), old[0] / 16, rtol=2e-3, atol=0)
    torch.testing.assert_close(store.scale[1].float(), old[1] * 16, rtol=2e-3, atol=0)
    assert torch.equal(store.scale[2:].float(), old[2:])


def test_a_scale_gets_the_gradients_of_its_weights() -> None:
    """By hand: weights s·(1, −1), loss 2·w₀ + 3·w₁ = −s, so the gradient of s is −1."""
    model = build_model(nn.Sequential(nn.Linear(2, 1, bias=False)), "plain")
    with torch.no_grad():
        model.module[0].weight.copy_(torch.tensor([[0.5, -0.5]]))  # type: ignore[index, operator]
    used, place = get_method("quantize.rtn"), Place("first", (model.layout.sites[0],))
    assert used.solve is not None
    config = build_config(used.config, {"bits": 4, "clip": "max"}, "rtn")
    apply_change_(model, place, used.solve(place, weights_of(model, place), None, config), used.forecast(place, config))
    store: Any = model.module[0].stored  # type: ignore[index]
    with train_scales(model.module) as (scale,):
        (store() * torch.tensor([[2.0, 3.0]])).sum().backward()
        assert scale.grad is not None
        derivative = scale.grad / 2.0 ** store.options["exponent"]
    decoded, real = store().detach(), store.scale.float() * 2.0 ** store.options["exponent"]
    expected = (decoded / real * torch.tensor([[2.0, 3.0]])).sum()
    torch.testing.assert_close(derivative, expected.view(1, 1))


def test_a_model_without_such_parts_is_refused() -> None:
    model, original = _make_pair()
    with pytest.raises(RecipeError, match="has no scales that could be trained; use train: all"):
        _train(model, original, "scales", 1)
    nothing = free_parameters(nn.Sequential(), model.layout, "all", "distill")
    with pytest.raises(RecipeError, match="no weight of the model is left to train"), nothing:
        pass

"""Products with quantized inputs, made in fewer steps: the sums of the simulation, in integers or in floats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.layers import CodedWeight, quantized_products, set_dequantize_policy_
from trimodal.layers.parametrization import parametrize_weight_
from trimodal.layers.quantized_products import FloatProduct, IntegerProduct
from trimodal.maths.grid import fit_grid
from trimodal.maths.integer_products import has_exact_integer_products
from trimodal.maths.observers import grid_from_range


def parametrize_(layer: nn.Module, mode: str, bits: int = 8, **grid_options: Any) -> Any:
    """Store the layer's weight in 8 bits with factors, and quantize its inputs."""
    weight: Tensor = layer.weight.detach()  # type: ignore[operator, union-attr, assignment]
    flat = weight.flatten(1)
    factors = torch.rand(weight.shape[1]).add_(0.5).half().repeat_interleave(flat.shape[1] // weight.shape[1])
    grid = fit_grid(flat / factors.float(), 8, grid_options.pop("group", "channel"), **grid_options)
    tensors = {**grid.storage_tensors(grid.encode(flat / factors.float())), "columns": factors[None]}
    if mode == "static":
        scale, zero = grid_from_range(torch.tensor(-1.7), torch.tensor(2.9), bits)
        tensors |= {"input_scale": scale.view(1, 1), "input_zero": zero.to(torch.uint8).view(1, 1)}
    options = {**grid.storage_options(), "shape": list(weight.shape), "dtype": "float32", "columns": True,
               "inputs": {"bits": bits, "mode": mode}}  # fmt: skip
    parametrize_weight_(layer, CodedWeight(grid.kind, options, tensors))
    return layer.eval()


@pytest.fixture(params=["integers", "floats"])
def product_class(request: Any, monkeypatch: pytest.MonkeyPatch) -> type:
    """Both ways of computing, on any machine: where its integers are not exact, they are multiplied in double precision."""
    in_integers = request.param == "integers"
    monkeypatch.setattr(quantized_products, "has_exact_integer_products", lambda: in_integers)
    monkeypatch.setattr(quantized_products, "_FEWEST_WEIGHTS", 1)
    if not has_exact_integer_products():
        monkeypatch.setattr(quantized_products, "multiply_integers", lambda a, b: (a.double() @ b.double()).int())
    return IntegerProduct if in_integers else FloatProduct


@pytest.mark.parametrize("mode", ["static", "token"])
@pytest.mark.parametrize("bits", [8, 5])
@pytest.mark.parametrize("grid", ["positive", "symmetric"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(product_class: type, mode: str, bits: int, grid: Any, bias: bool) -> None:
    layer = parametrize_(nn.Linear(48, 20, bias=bias), mode, bits, kind=grid)
    for shape in ((48,), (1, 48), (5, 48), (2, 3, 48), (0, 48)):
        x = 2 * torch.randn(shape)
        with torch.no_grad():
            wanted = layer(x)
            set_dequantize_policy_(layer, "speed")
            found = layer(x)
            assert type(layer.stored._kept["product"].made) is product_class and layer.stored._kept.keys() == {"product"}
            set_dequantize_policy_(layer, "memory")
        assert found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-5)


def test_codes_are_the_very_ones(product_class: type) -> None:
    """One output per input entry, with the weight 1: what comes out is the input's own numbers, to the last bits."""
    layer: Any = nn.Linear(64, 64, bias=False)
    layer.weight.data = torch.eye(64)
    layer = parametrize_(layer, "static")
    x = torch.cat([torch.linspace(-2, 3, 64 * 40), (torch.arange(64 * 5) - 60.5) * float(layer.stored.input_scale)]).view(-1, 64)
    with torch.no_grad():
        wanted = layer.stored.fake_quantize_input(x) * layer.stored().diagonal()
        set_dequantize_policy_(layer, "speed")
        assert torch.allclose(layer(x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["static", "token"])
@pytest.mark.parametrize("make", [
    lambda: nn.Conv1d(6, 4, 3, stride=2, padding=1), lambda: nn.Conv2d(6, 4, (3, 2), padding=1, dilation=2),
    lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"),
])  # fmt: skip
def test_convolution(mode: str, make: Any) -> None:
    layer = parametrize_(make(), mode)
    x = torch.randn(2, 6, 12, 12) if isinstance(layer, nn.Conv2d) else torch.randn(2, 6, 12)
    with torch.no_grad():
        wanted = layer(x)
        set_dequantize_policy_(layer, "speed")
        assert torch.allclose(layer(x), wanted, atol=1e-5)
        assert type(layer.stored._kept["product"].made) is FloatProduct


@pytest.mark.parametrize("options", [{"group": 16}, {"kind": "asymmetric"}])
def test_what_no_integer_product_has_is_computed_in_floats(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Several scales per row; zero-points that leave 8 bits: weights of 9 bits less their zero-point."""
    monkeypatch.setattr(quantized_products, "has_exact_integer_products", lambda: True)
    monkeypatch.setattr(quantized_products, "_FEWEST_WEIGHTS", 1)
    plain = nn.Linear(48, 20)
    if "kind" in options:
        plain.weight.data.abs_()
    layer, x = parametrize_(plain, "static", **options), torch.randn(5, 48)
    with torch.no_grad():
        wanted = layer(x)
        set_dequantize_policy_(layer, "speed")
        assert torch.allclose(layer(x), wanted, atol=1e-5)
    assert type(layer.stored._kept["product"].made) is FloatProduct


def test_simulated_step_by_step_where_it_must_be() -> None:
    """In other types, and in training."""
    layer = parametrize_(nn.Linear(48, 20), "static")
    x = torch.randn(5, 48)
    wanted = layer(x)
    set_dequantize_policy_(layer, "speed")
    layer.train()
    assert torch.equal(layer(x), wanted) and "product" not in layer.stored._kept
    half = layer.eval().half()(x.half())
    assert half.dtype is torch.float16 and "product" not in layer.stored._kept


def test_gradients_reach_the_bias(product_class: type) -> None:
    layer = parametrize_(nn.Linear(48, 20), "static")
    x, factors = torch.randn(5, 48, requires_grad=True), torch.randn(5, 20)
    (layer(x) * factors).sum().backward()
    wanted, layer.bias.grad = layer.bias.grad, None
    set_dequantize_policy_(layer, "speed")
    (layer(x) * factors).sum().backward()
    assert torch.allclose(layer.bias.grad, wanted, atol=1e-5)


def test_a_new_input_range_is_heeded(product_class: type) -> None:
    layer, x = parametrize_(nn.Linear(48, 20), "static"), torch.randn(5, 48)
    set_dequantize_policy_(layer, "speed")
    with torch.no_grad():
        before = layer(x)
        layer.stored.input_scale.mul_(0.25)
        found = layer(x)
        set_dequantize_policy_(layer, "memory")
        assert torch.allclose(found, layer(x), atol=1e-5) and not torch.allclose(found, before, atol=1e-2)

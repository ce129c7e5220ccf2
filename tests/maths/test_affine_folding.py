"""Folding worked by hand, and against what PyTorch computes in two steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from trimodal.core import Fold
from trimodal.maths.affine_folding import (
    batch_norm_affine,
    compose_linear,
    fold_into_layers,
    scale_inputs,
    scale_outputs,
)


def test_batch_norm_by_hand() -> None:
    values = (torch.tensor([v]) for v in (2.0, 1.0, 3.0, 3.99))
    gain, shift = batch_norm_affine(*values, epsilon=0.01)
    weight, bias = scale_outputs((torch.tensor([[1.0, 2.0]]), None), gain, shift)
    assert weight.flatten().tolist() == pytest.approx([1.0, 2.0], abs=1e-6)
    assert bias is not None and bias.tolist() == pytest.approx([-2.0], abs=1e-6)


def test_affine_part_by_hand() -> None:
    """W = [[1, 2], [3, 4]], γ = (2, 0.5), β = (1, −1), b = (10, 20)."""
    layer = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([10.0, 20.0])
    weight, bias = scale_inputs(layer, torch.tensor([2.0, 0.5]), torch.tensor([1.0, -1.0]))
    assert weight.tolist() == [[2.0, 1.0], [6.0, 2.0]]
    assert bias is not None and bias.tolist() == [9.0, 19.0]


def test_two_layers_by_hand() -> None:
    first = torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])
    second = torch.tensor([[4.0], [5.0]]), torch.tensor([6.0, 7.0])
    weight, bias = compose_linear(second, first)
    assert weight.tolist() == [[4.0, 8.0], [5.0, 10.0]]
    assert bias is not None and bias.tolist() == [18.0, 22.0]
    assert compose_linear((second[0], None), (first[0], None))[1] is None


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolution_and_batch_norm(groups: int) -> None:
    conv, norm = nn.Conv2d(4, 8, 3, padding=1, groups=groups, bias=groups > 1), nn.BatchNorm2d(8).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.1, 2.0)  # type: ignore[arg-type]
    tensors = {
        f"{path}.{name}": t for path, part in (("conv", conv), ("norm", norm)) for name, t in part.state_dict().items()
    }
    new = fold_into_layers(Fold("norm", "norm", ("conv",), epsilon=norm.eps), tensors)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    found = F.conv2d(x, new["conv.weight"], new["conv.bias"], padding=1, groups=groups)
    assert torch.allclose(found, norm.double()(conv.double()(x)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_into_two_readers(offset: float) -> None:
    gain, first, second = torch.randn(6), torch.randn(3, 6), torch.randn(4, 6)
    tensors = {"norm.weight": gain, "q.weight": first, "k.weight": second, "k.bias": torch.ones(4)}
    new = fold_into_layers(Fold("affine", "norm", ("q", "k"), offset=offset), tensors)
    x = F.rms_norm(torch.randn(5, 6, dtype=torch.float64), (6,))
    assert torch.allclose(x @ new["q.weight"].T, (x * (gain + offset)) @ first.double().T)
    assert new.keys() == {"q.weight", "k.weight", "k.bias"} and new["k.bias"].tolist() == [1.0] * 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.booleans(), st.booleans())
def test_composition_is_one_layer_after_the_other(m: int, k: int, n: int, one: bool, two: bool) -> None:
    def layer(rows: int, columns: int, biased: bool) -> tuple[Tensor, Tensor | None]:
        return torch.randn(rows, columns, dtype=torch.float64), torch.randn(
            rows, dtype=torch.float64
        ) if biased else None

    first, second, x = layer(k, n, one), layer(m, k, two), torch.randn(3, n, dtype=torch.float64)
    assert torch.allclose(F.linear(x, *compose_linear(second, first)), F.linear(F.linear(x, *first), *second))

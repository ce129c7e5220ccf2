"""Numbers that are not finite are found in any type, and a model that has them is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trimodal.errors import ModelError
from trimodal.formats import open_model
from trimodal.models.finite import NonFiniteTensor, check_finite, iter_nonfinite_tensors


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4).to(dtype)
        self.out = nn.Linear(4, 2).to(dtype)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensor_count_and_first_index_are_named(dtype: torch.dtype, bad: float) -> None:
    net = Net(dtype)
    with torch.no_grad():
        net.embedding.weight[3, 2] = net.embedding.weight[7, 0] = bad
        net.out.bias[1] = bad
    assert list(iter_nonfinite_tensors(net)) == [NonFiniteTensor("embedding.weight", 2, (3, 2)), NonFiniteTensor("out.bias", 1, (1,))]
    with pytest.raises(ModelError, match=r"net: embedding.weight holds 2 numbers .* the first at \[3, 2\]; 1 more tensors"):
        check_finite(net, "net")
    with pytest.raises(ModelError, match=r"embedding\.weight"):
        open_model(lambda: net)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_too(dtype: torch.dtype) -> None:
    net = nn.Module()
    weight = torch.ones(3, 4)
    net.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    assert not list(iter_nonfinite_tensors(net))
    weight[2, 1] = float("nan")
    net.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    assert list(iter_nonfinite_tensors(net)) == [NonFiniteTensor("weight", 1, (2, 1))]


def test_masks_are_infinite_on_purpose() -> None:
    net = Net()
    causal = torch.full((4, 4), float("-inf")).triu(1)
    net.register_buffer("causal_mask", causal)
    net.register_buffer("least", torch.full((4, 4), torch.finfo(torch.float32).min))
    net.register_buffer("scratch", torch.full((4,), float("nan")), persistent=False)
    assert not list(iter_nonfinite_tensors(net))


def test_running_statistics_and_nan_in_buffers_are_not() -> None:
    net, other = nn.BatchNorm1d(3), Net()
    net.running_var[1] = float("inf")
    assert list(iter_nonfinite_tensors(net)) == [NonFiniteTensor("running_var", 1, (1,))]
    other.register_buffer("table", torch.tensor([0.0, float("nan")]))
    assert list(iter_nonfinite_tensors(other)) == [NonFiniteTensor("table", 1, (1,))]


def test_whole_numbers_and_tensors_without_values_are_passed_over() -> None:
    net = nn.Module()
    net.register_buffer("codes", torch.zeros(3, dtype=torch.uint8))
    with torch.device("meta"):
        net.layer = nn.Linear(3, 3)
    assert not list(iter_nonfinite_tensors(net))


def test_numbers_whose_sum_overflows_are_finite() -> None:
    net = nn.Module()
    net.weight = nn.Parameter(torch.full((4, 4), torch.finfo(torch.float32).max))
    net.register_buffer("both_ends", torch.tensor([float("inf"), float("-inf"), 0.0]))  # their sum is NaN, none of them is
    assert not list(iter_nonfinite_tensors(net))

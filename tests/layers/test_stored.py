"""Stores: what they keep, and in how many bytes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trimodal.layers import Coded, Sparse, replaced_
from trimodal.maths.grid import fit_grid
from trimodal.maths.packing import pack


def sparse(weight: Tensor, mask: Tensor) -> Sparse:
    values = weight.flatten(1)[mask]
    options = {"shape": list(weight.shape), "dtype": "float32", "kept": len(values)}
    return Sparse(options, {"values": values, "mask": pack(mask.to(torch.uint8), 1)})


def size(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_quantized_weight_comes_back_in_shape_and_type(dtype: str) -> None:
    weight = torch.randn(6, 3, 5)
    flat = weight.flatten(1)
    grid = fit_grid(flat, 8, 8)
    store = Coded(grid.kind, {**grid.options(), "shape": [6, 3, 5], "dtype": dtype}, grid.tensors(grid.encode(flat)))
    assert store().shape == (6, 3, 5) and str(store().dtype) == f"torch.{dtype}"
    assert (store().float() - weight).abs().max() < 0.03
    assert size(store) == 6 * 16 + 6 * 2 * 2  # codes padded to 16 columns, two float16 scales per row


def test_sparse_weight_is_its_values_and_one_bit_each() -> None:
    weight = torch.randn(5, 4, 3)
    mask = torch.rand(5, 12) < 0.4
    store = sparse(weight, mask)
    assert torch.equal(store(), weight * mask.view(5, 4, 3))
    assert size(store) == 4 * int(mask.sum()) + 5 * 2


@pytest.mark.parametrize("keep", [True, False])
def test_all_or_nothing_may_be_kept(keep: bool) -> None:
    weight = torch.randn(3, 4)
    store = sparse(weight, torch.full((3, 4), keep))
    assert torch.equal(store(), weight if keep else torch.zeros(3, 4))


def test_dense_treatment_sets_weight_and_bias() -> None:
    layer = nn.Linear(3, 2, bias=False)
    weight, bias = torch.randn(2, 3), torch.randn(2)
    assert replaced_(layer, "dense", {}, {"weight": weight}, bias) is layer
    assert torch.equal(layer.weight, weight) and torch.equal(layer.bias, bias)

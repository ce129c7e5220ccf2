"""Stores: what they keep, and in how many bytes."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.formats.stock_load_check import collect_outputs
from trimodal.layers import CodedWeight, SparseWeight, is_weight_parametrized, replace_weight_
from trimodal.maths.grid import fit_grid
from trimodal.maths.packing import pack_codes
from trimodal.networks.tiny import make_miniature_batch


def sparse(weight: Tensor, mask: Tensor) -> SparseWeight:
    values = weight.flatten(1)[mask]
    options = {"shape": list(weight.shape), "dtype": "float32", "kept": len(values)}
    return SparseWeight(options, {"values": values, "mask": pack_codes(mask.to(torch.uint8), 1)})


def size(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_quantized_weight_comes_back_in_shape_and_type(dtype: str) -> None:
    weight = torch.randn(6, 3, 5)
    flat = weight.flatten(1)
    grid = fit_grid(flat, 8, 8)
    store = CodedWeight(grid.kind, {**grid.storage_options(), "shape": [6, 3, 5], "dtype": dtype}, grid.storage_tensors(grid.encode(flat)))
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
    assert replace_weight_(layer, "dense", {}, {"weight": weight}, bias) is layer
    assert torch.equal(layer.weight, weight) and torch.equal(layer.bias, bias)


TYPES = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}
CODED = {
    "integers": {"quantize.entropy": {"where": "*", "bits": 3}},
    "grid": {"quantize.rtn": {"where": "*", "bits": 4}},
    "table": {"quantize.rtn": {"where": "*", "bits": 4, "grid": "kmeans"}},
    "inputs": {"quantize.smooth": {"where": "*"}},
    "sparse": {"prune.magnitude": {"where": "*", "sparsity": 0.5}},
}


@pytest.mark.parametrize("kind", CODED)
@pytest.mark.parametrize("name", ["lstm", "clip"])
def test_cast_to_another_type(compressed: Any, name: str, kind: str) -> None:
    """What is stored keeps its type, the decoded weight takes the new one, and so does the way back."""
    done = compressed(name, [CODED[kind]]).model.module
    batch = make_miniature_batch(name, 2)
    expected, stored = collect_outputs(done, batch), {k: t.clone() for k, t in done.state_dict().items() if ".stored." in k}
    assert stored
    for cast, dtype in TYPES.items():
        module = getattr(copy.deepcopy(done), cast)()
        fit = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}
        found = collect_outputs(module, fit)
        for key, tensor in found.items():
            allowed = 0.3 if kind == "inputs" else 1e-3 if cast == "double" else 0.08  # a rounded input may move by a step
            assert tensor.dtype is dtype and float((tensor.float() - expected[key]).norm() / expected[key].norm()) < allowed
        kept = {k: t for k, t in module.state_dict().items() if k in stored and not k.endswith("stored.values")}
        assert all(t.dtype is stored[k].dtype and torch.equal(t, stored[k]) for k, t in kept.items())
        back = module.float() if cast != "double" else module.to(torch.float32)
        for path, layer in back.named_modules():
            if is_weight_parametrized(layer) and kind != "sparse":
                assert torch.equal(layer.weight, done.get_submodule(path).weight)


def test_copies_and_pickles(compressed: Any) -> None:
    done = compressed("llama", [{"share.layers": {"rank": 2}}, {"quantize.rtn": {"where": "*", "bits": 8}}]).model.module
    batch = make_miniature_batch("llama", 2)
    expected, file = collect_outputs(done, batch), io.BytesIO()
    torch.save(done, file)
    file.seek(0)
    for module in (copy.deepcopy(done), torch.load(file, weights_only=False)):
        assert all(torch.equal(tensor, expected[key]) for key, tensor in collect_outputs(module, batch).items())
        fresh = copy.deepcopy(done)
        fresh.load_state_dict(module.state_dict())
        assert torch.equal(collect_outputs(fresh, batch)["logits"], expected["logits"])

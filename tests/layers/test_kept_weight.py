"""Weights that are decoded once and kept: what is handed out is always what is stored now."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.errors import InputError
from trimodal.layers import (
    CodedWeight,
    SparseWeight,
    count_kept_bytes,
    replace_weight_,
    set_dequantize_policy_,
    share_weight_,
)
from trimodal.layers.parametrization import parametrize_weight_
from trimodal.maths.grid import fit_grid
from trimodal.maths.packing import pack_codes

ROWS, COLUMNS = 6, 16


def make_coded(weight: Tensor, bits: int = 8) -> CodedWeight:
    grid = fit_grid(weight, bits, "channel")
    options = {**grid.storage_options(), "shape": list(weight.shape), "dtype": "float32"}
    return CodedWeight(grid.kind, options, grid.storage_tensors(grid.encode(weight)))


def make_sparse(weight: Tensor) -> SparseWeight:
    mask = weight.abs() > 0.5
    options = {"shape": list(weight.shape), "dtype": "float32", "kept": int(mask.sum())}
    return SparseWeight(options, {"values": weight[mask], "mask": pack_codes(mask.to(torch.uint8), 1)})


def make_table(weight: Tensor) -> CodedWeight:
    options = {"shape": [ROWS, COLUMNS], "dtype": "float32", "bits": 2, "group": COLUMNS, "exponent": 0, "tables": "tower", "scaled": False}
    codes = pack_codes((weight > 0).to(torch.uint8) * 3, 2)
    return CodedWeight("codebook", options, {"codes": codes, "levels": torch.tensor([[-1.0, 0.0, 0.5, 1.0]]).half()})


def make_linear(store: CodedWeight | SparseWeight) -> nn.Linear:
    layer = nn.Linear(COLUMNS, ROWS)
    parametrize_weight_(layer, store)
    return layer.eval()


@pytest.fixture
def layer() -> nn.Linear:
    found = make_linear(make_coded(torch.randn(ROWS, COLUMNS)))
    set_dequantize_policy_(found, "speed")
    return found


def test_a_store_keeps_nothing_until_it_is_told_to() -> None:
    layer = make_linear(make_coded(torch.randn(ROWS, COLUMNS)))
    assert layer.weight is not layer.weight and count_kept_bytes(layer) == 0
    assert "dequantize=memory" in repr(layer) and "8 bits, [6, 16]" in repr(layer)


def test_decoded_once_and_said(layer: nn.Linear) -> None:
    assert count_kept_bytes(layer) == 0
    weight = layer.weight
    assert layer.weight is weight and torch.equal(weight, layer.stored())  # type: ignore[operator]
    assert count_kept_bytes(layer) == 4 * ROWS * COLUMNS
    assert "dequantize=speed (384 bytes kept)" in repr(layer)
    set_dequantize_policy_(layer, "memory")
    assert count_kept_bytes(layer) == 0 and layer.weight is not weight


def test_unknown_policy(layer: nn.Linear) -> None:
    with pytest.raises(InputError, match="no policy for decoding is called 'fast'; expected speed or memory"):
        set_dequantize_policy_(layer, "fast")  # type: ignore[arg-type]


def test_neither_counted_nor_saved(layer: nn.Linear) -> None:
    before = len(list(layer.parameters())), len(list(layer.buffers()))
    assert layer.weight is layer.weight and list(layer.state_dict()) == ["bias", "stored.codes", "stored.scale"]
    assert (len(list(layer.parameters())), len(list(layer.buffers()))) == before


@pytest.mark.parametrize("assign", [False, True])
def test_new_codes_are_decoded_anew(layer: nn.Linear, assign: bool) -> None:
    other = make_linear(make_coded(torch.randn(ROWS, COLUMNS)))
    before = layer.weight
    layer.load_state_dict(other.state_dict(), assign=assign)
    assert torch.equal(layer.weight, other.weight) and not torch.equal(layer.weight, before)


def test_a_change_in_place_is_seen(layer: nn.Linear) -> None:
    before = layer.weight.clone()
    layer.stored.scale.mul_(2)  # type: ignore[union-attr, operator]
    assert torch.equal(layer.weight, 2 * before)
    layer.stored.scale = layer.stored.scale * 2  # type: ignore[union-attr, operator]
    assert torch.equal(layer.weight, 4 * before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_cast(layer: nn.Linear, dtype: torch.dtype) -> None:
    before = layer.weight
    assert layer.to(dtype).weight.dtype is dtype and layer(torch.randn(2, COLUMNS, dtype=dtype)).dtype is dtype
    assert layer.float().weight is not before and torch.equal(layer.weight, before)
    layer.stored.dtype = dtype  # type: ignore[union-attr]
    assert layer.weight.dtype is dtype


def test_another_device(layer: nn.Linear) -> None:
    assert not layer.weight.is_meta
    layer.to("meta")
    assert layer.weight.is_meta and count_kept_bytes(layer) == 0


@pytest.mark.parametrize("how", [copy.deepcopy, lambda layer: load_pickle(layer)])
def test_copies_and_pickles_are_made_without_it(layer: nn.Linear, how: Any) -> None:
    weight = layer.weight
    again = how(layer)
    assert count_kept_bytes(again) == 0 and count_kept_bytes(layer) > 0
    assert torch.equal(again.weight, weight) and again.weight is again.weight and again.weight is not weight
    again.stored.scale.mul_(2)
    assert torch.equal(again.weight, 2 * layer.weight) and layer.weight is weight


def load_pickle(layer: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_trained_levels() -> None:
    layer = make_linear(make_table(torch.randn(ROWS, COLUMNS)))
    set_dequantize_policy_(layer, "speed")
    store, x = layer.stored, torch.randn(3, COLUMNS)
    before = layer.weight.clone()
    store.unfreeze_levels_()  # type: ignore[union-attr, operator]
    optimizer = torch.optim.SGD(store.parameters(), 1e-4)  # type: ignore[union-attr]
    layer(x).square().sum().backward()
    assert store.levels.grad.abs().sum() > 0  # type: ignore[union-attr]
    with torch.no_grad():
        assert torch.equal(layer.weight, before) and layer.weight is layer.weight
        optimizer.step()
        moved = layer.weight
        assert torch.equal(moved, store()) and not torch.equal(moved, before)  # type: ignore[operator]
        store.freeze_levels_()  # type: ignore[union-attr, operator]
        assert torch.allclose(layer.weight, moved, atol=1e-2) and layer.weight is not moved


def test_a_borrowed_table() -> None:
    lender = make_linear(make_table(torch.randn(ROWS, COLUMNS)))
    whole = make_table(torch.randn(ROWS, COLUMNS))
    borrowing = CodedWeight("codebook", {**whole.options, "tables": "borrowed"}, {"codes": whole.codes})
    borrowing.share_table_(lender.stored)  # type: ignore[arg-type]
    layer = make_linear(borrowing)
    set_dequantize_policy_(layer, "speed")
    before = layer.weight
    assert layer.weight is before and set(before.unique().tolist()) == {-1.0, 1.0}
    lender.stored.levels.mul_(2)  # type: ignore[union-attr, operator]
    assert torch.equal(layer.weight, 2 * before)
    lender.stored.unfreeze_levels_()  # type: ignore[union-attr, operator]
    with torch.no_grad():
        assert torch.equal(layer.weight, 2 * before)


def test_sparse_values_still_train() -> None:
    layer = make_linear(make_sparse(torch.randn(ROWS, COLUMNS)))
    set_dequantize_policy_(layer, "speed")
    with torch.no_grad():
        kept = layer.weight
        assert layer.weight is kept and not kept.requires_grad
    assert layer.weight.requires_grad and layer.weight is not kept
    layer(torch.randn(3, COLUMNS)).sum().backward()
    assert layer.stored.values.grad is not None  # type: ignore[union-attr]
    with torch.no_grad():
        layer.stored.values.data = layer.stored.values.data * 3  # type: ignore[union-attr]
        assert torch.equal(layer.weight, 3 * kept)


def test_made_in_inference_mode_and_used_outside(layer: nn.Linear) -> None:
    with torch.inference_mode():
        kept = layer.weight
    x = torch.randn(3, COLUMNS, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight is kept and torch.allclose(x.grad, kept.sum(0).expand(3, -1))


def test_loaded_in_inference_mode() -> None:
    with torch.inference_mode():
        layer = make_linear(make_coded(torch.randn(ROWS, COLUMNS)))
        set_dequantize_policy_(layer, "speed")
        kept = layer.weight
        assert layer.weight is kept
        layer.load_state_dict(make_linear(make_coded(torch.randn(ROWS, COLUMNS))).state_dict())
        assert layer.weight is not kept and torch.equal(layer.weight, layer.stored())  # type: ignore[operator]


def test_embeddings_look_up_in_what_is_kept_or_decode_rows() -> None:
    layer, index = nn.Embedding(ROWS, COLUMNS), torch.tensor([[1, 5], [0, 1]])
    parametrize_weight_(layer, make_coded(torch.randn(ROWS, COLUMNS), 4))
    rows = layer(index)
    assert count_kept_bytes(layer) == 0
    set_dequantize_policy_(layer, "speed")
    assert torch.equal(layer(index), rows) and count_kept_bytes(layer) == 4 * ROWS * COLUMNS


def test_tied_and_shared_weights_are_kept_once() -> None:
    table, head, other = nn.Embedding(ROWS, COLUMNS), nn.Linear(COLUMNS, ROWS), nn.Linear(COLUMNS, ROWS)
    store = make_coded(torch.randn(ROWS, COLUMNS))
    parametrize_weight_(table, store)
    parametrize_weight_(head, store, owner=False)
    share_weight_(other, head)
    module = nn.ModuleList([table, head, other])
    set_dequantize_policy_(module, "speed")
    assert table.weight is head.weight and other.weight is head.weight
    assert count_kept_bytes(module) == 4 * ROWS * COLUMNS
    again = copy.deepcopy(module)
    assert again[0].weight is again[1].weight and again[2].weight is again[1].weight and again[0].weight is not table.weight


def test_chain_of_coded_and_plain_links() -> None:
    first, second = torch.randn(3, COLUMNS), torch.randn(ROWS, 3)
    tensors = {"first": first, "second": second.clone()}
    chain: Any = replace_weight_(nn.Linear(COLUMNS, ROWS), "low_rank", {}, tensors, None)
    parametrize_weight_(chain.first, make_coded(first))
    set_dequantize_policy_(chain, "speed")
    with torch.no_grad():
        whole = chain.weight
        assert chain.weight is whole and torch.equal(whole, chain.second.weight @ chain.first.weight)
        chain.first.stored.scale.mul_(2)
        assert torch.allclose(chain.weight, 2 * whole)
        chain.second.weight.mul_(2)
        assert torch.allclose(chain.weight, 4 * whole)
        chain.second.weight.data = second
        assert torch.allclose(chain.weight, 2 * whole)
        assert chain.double().weight.dtype is torch.float64
    assert chain.weight.requires_grad


def test_exported_programs_hold_the_codes(layer: nn.Linear) -> None:
    """What a tracer sees is the stored tensors and how they are decoded, not what happens to be kept."""
    x = torch.randn(2, COLUMNS)
    wanted = layer(x)
    program = torch.export.export(layer, (x,))
    assert {"stored.codes", "stored.scale"} <= set(program.state_dict)
    assert torch.allclose(program.module()(x), wanted, atol=1e-6) and layer.weight is layer.weight

"""Layers that take their weight from a store, and give it back."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trimodal.layers import (
    CodedWeight,
    SparseWeight,
    is_weight_parametrized,
    parametrize_weight_,
    remove_parametrization_,
)
from trimodal.layers.stored import Store
from trimodal.maths.grid import Uniform, fit_grid
from trimodal.maths.packing import pack_codes


class Scaled(nn.Embedding):
    """An embedding with a forward of its own, as several language models have it."""

    def forward(self, index: Tensor) -> Tensor:
        return functional.embedding(index, self.weight) * 3.0


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Linear(10, 6), lambda: torch.randn(2, 3, 10)),
    "linear without bias": (lambda: nn.Linear(10, 6, bias=False), lambda: torch.randn(4, 10)),
    "conv1d": (lambda: nn.Conv1d(3, 6, 3, stride=2, padding=1), lambda: torch.randn(2, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding="same"), lambda: torch.randn(2, 4, 7, 7)),
    "embedding": (lambda: nn.Embedding(12, 10, padding_idx=0), lambda: torch.randint(0, 12, (2, 5))),
    "scaled": (lambda: Scaled(12, 10), lambda: torch.randint(0, 12, (2, 5))),
}


def quantized(weight: Tensor, group: int | str = "channel", kind: Uniform = "positive") -> CodedWeight:
    flat = weight.detach().flatten(1)
    grid = fit_grid(flat, 4, group, kind)
    options = {**grid.storage_options(), "shape": list(weight.shape), "dtype": "float32"}
    return CodedWeight(grid.kind, options, grid.storage_tensors(grid.encode(flat)))


def sparse(weight: Tensor) -> SparseWeight:
    mask = weight.detach().flatten(1).abs() > 0.05
    values = weight.detach().flatten(1)[mask]
    options = {"shape": list(weight.shape), "dtype": "float32", "kept": len(values)}
    return SparseWeight(options, {"values": values, "mask": pack_codes(mask.to(torch.uint8), 1)})


STORES: dict[str, Callable[[Tensor], Store]] = {
    "quantized": quantized,
    "grouped": lambda weight: quantized(weight, 8, kind="asymmetric"),
    "tensor": lambda weight: quantized(weight, "tensor", kind="asymmetric"),
    "sparse": sparse,
}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_computes_with_the_decoded_weight(name: str, store: str) -> None:
    make, take = LAYERS[name]
    layer, x = make(), take()
    plain, stored = copy.deepcopy(layer), STORES[store](layer.weight)  # type: ignore[arg-type]
    plain.weight.data = stored().detach()  # type: ignore[union-attr]
    parametrize_weight_(layer, stored)
    assert is_weight_parametrized(layer) and isinstance(layer, type(plain))
    assert torch.equal(layer(x), plain(x))
    assert "weight" not in dict(layer.named_parameters()) and torch.equal(layer.weight, plain.weight)  # type: ignore[arg-type]
    remove_parametrization_(layer)
    assert type(layer) is type(plain) and not is_weight_parametrized(layer)
    assert layer.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize("store", STORES)
def test_rows_are_those_of_the_whole(store: str) -> None:
    stored = STORES[store](torch.randn(9, 13))
    index = torch.tensor([3, 0, 3, 8])
    assert torch.equal(stored.decode_rows(index), stored()[index])


def test_layer_follows_to_another_type_and_back_through_a_copy() -> None:
    layer = nn.Linear(8, 3)
    parametrize_weight_(layer, quantized(layer.weight))
    twin = copy.deepcopy(layer)
    x = torch.randn(2, 8)
    assert torch.equal(twin(x), layer(x)) and twin.stored is not layer.stored


class Tied(nn.Module):
    """Words in, scores out, one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.scores = nn.Embedding(12, 8), nn.Linear(8, 12, bias=False)
        self.scores.weight = self.words.weight

    def forward(self, index: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.words(index))
        return scores


def test_tied_weight_is_stored_once() -> None:
    model, index = Tied(), torch.tensor([[1, 5]])
    stored = quantized(model.words.weight)
    parametrize_weight_(model.words, stored)
    parametrize_weight_(model.scores, stored, owner=False)
    assert set(model.state_dict()) == {"words.stored.codes", "words.stored.scale"}
    assert torch.equal(model(index), functional.embedding(index, stored()) @ stored().T)
    twin = copy.deepcopy(model)
    assert twin.scores.stored is twin.words.stored is not stored
    for layer in (model.scores, model.words):
        remove_parametrization_(layer)
    assert torch.equal(model.words.weight, model.scores.weight)


def test_sparse_weight_trains_only_what_it_keeps() -> None:
    layer = nn.Linear(10, 6)
    parametrize_weight_(layer, sparse(layer.weight))
    zero = layer.weight == 0
    assert bool(zero.any()) and not bool(zero.all())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    layer(torch.randn(4, 10)).square().sum().backward()
    optimizer.step()
    after = layer.weight.detach()
    assert bool((after[zero] == 0).all()) and bool((after[~zero] != before[~zero]).all())


def test_quantized_weight_does_not_train() -> None:
    layer = nn.Linear(10, 6)
    parametrize_weight_(layer, quantized(layer.weight))
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert not layer.weight.requires_grad


def test_other_parameters_and_hooks_stay() -> None:
    layer, seen = nn.Linear(4, 2), []
    layer.register_forward_hook(lambda *_: seen.append(1))
    parametrize_weight_(layer, quantized(layer.weight))
    layer(torch.randn(1, 4))
    assert seen == [1] and layer.in_features == 4

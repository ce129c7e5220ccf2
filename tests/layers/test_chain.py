"""Several layers in place of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.core.storage import tensor_specs_of
from trimodal.layers import FactorChain, merge_factor_chain, remove_parametrization_, replace_weight_
from trimodal.maths.grid import fit_grid

LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Linear(10, 6), lambda: torch.randn(2, 3, 10)),
    "linear without bias": (lambda: nn.Linear(10, 6, bias=False), lambda: torch.randn(4, 10)),
    "conv1d": (lambda: nn.Conv1d(3, 6, 3, stride=2, padding=1), lambda: torch.randn(2, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 6, (3, 2), dilation=(2, 1)), lambda: torch.randn(2, 3, 7, 7)),
    "same": (lambda: nn.Conv2d(3, 6, 4, padding="same", bias=False), lambda: torch.randn(2, 3, 7, 7)),
    "circular": (lambda: nn.Conv1d(3, 6, 3, padding=1, padding_mode="circular"), lambda: torch.randn(2, 3, 7)),
    "embedding": (lambda: nn.Embedding(12, 10, padding_idx=0), lambda: torch.randint(0, 12, (2, 5))),
}


def full_rank(layer: nn.Module) -> dict[str, Tensor]:
    """Factors of the whole weight, so that nothing is lost."""
    weight = layer.weight.detach()  # type: ignore[union-attr, operator]
    if isinstance(layer, nn.Embedding):
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        return {"first": u * s, "second": v.T.contiguous()}
    u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    first = (s[:, None] * v).view(-1, *weight.shape[1:])
    return {"first": first, "second": u.view(*u.shape, *(1 for _ in weight.shape[2:]))}


@pytest.mark.parametrize("name", LAYERS)
def test_pair_and_merged_layer_compute_what_the_layer_did(name: str) -> None:
    make, take = LAYERS[name]
    layer, x = make(), take()
    expected, weight, bias = layer(x), layer.weight, getattr(layer, "bias", None)
    pair = replace_weight_(layer, "low_rank", {}, full_rank(layer), None)
    assert isinstance(pair, FactorChain)
    assert torch.allclose(pair(x), expected, atol=1e-5)
    assert torch.allclose(pair.weight, weight, atol=1e-5)  # type: ignore[arg-type]
    assert (pair.bias is None) == (bias is None) and (bias is None or torch.equal(pair.bias, bias))
    whole = merge_factor_chain(pair)
    assert type(whole) is type(layer)
    assert torch.allclose(whole(x), expected, atol=1e-5)
    assert whole.state_dict().keys() == layer.state_dict().keys()


def test_pair_says_what_the_layer_said_of_itself() -> None:
    conv = nn.Conv1d(3, 6, 3, stride=2)
    pair = replace_weight_(conv, "low_rank", {}, full_rank(conv), None)
    assert (pair.stride, pair.kernel_size, pair.out_channels) == ((2,), (3,), 6)
    words = nn.Embedding(12, 10)
    assert replace_weight_(words, "low_rank", {}, full_rank(words), None).num_embeddings == 12


def test_factors_may_be_quantized_and_merged_again() -> None:
    layer, x = nn.Linear(10, 6), torch.randn(4, 10)
    pair = replace_weight_(layer, "low_rank", {}, full_rank(layer), None)
    assert isinstance(pair, FactorChain)
    for factor in (pair.first, pair.second):
        weight = factor.weight.detach()  # type: ignore[union-attr, operator]
        grid = fit_grid(weight, 8, "channel")
        options = {**grid.storage_options(), "shape": list(weight.shape), "dtype": "float32"}
        replace_weight_(factor, "quantized", options, grid.storage_tensors(grid.encode(weight)), None)
    expected = pair(x)
    for factor in (pair.first, pair.second):
        remove_parametrization_(factor)
    assert torch.allclose(merge_factor_chain(pair)(x), expected, atol=1e-5)


def test_a_new_bias_takes_the_old_ones_place() -> None:
    layer = nn.Linear(10, 6)
    bias = torch.randn(6)
    pair = replace_weight_(layer, "low_rank", {}, full_rank(layer), bias)
    assert isinstance(pair, FactorChain) and pair.bias is not None and torch.equal(pair.bias, bias)


def test_other_kinds_have_no_low_rank_form() -> None:
    with pytest.raises(TypeError, match="no low_rank form of LayerNorm"):
        replace_weight_(nn.LayerNorm(4), "low_rank", {}, {"first": torch.ones(1, 4), "second": torch.ones(4, 1)}, None)


KERNELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.Conv2d(5, 6, 3), (9, 8)),
    "stride": (lambda: nn.Conv2d(5, 6, 3, stride=2, padding=1), (9, 8)),
    "uneven": (lambda: nn.Conv2d(5, 6, (3, 2), stride=(1, 3), padding=(2, 0), dilation=(2, 1), bias=False), (9, 8)),
    "dilation": (lambda: nn.Conv2d(5, 6, (2, 3), padding=2, dilation=(3, 2)), (9, 8)),
    "one row": (lambda: nn.Conv2d(5, 6, (1, 3), stride=2, padding=1), (9, 8)),
    "same": (lambda: nn.Conv2d(5, 6, (4, 3), padding="same"), (9, 8)),
    "valid": (lambda: nn.Conv2d(5, 6, 3, padding="valid"), (9, 8)),
    "reflect": (lambda: nn.Conv2d(5, 6, 3, padding=(2, 1), padding_mode="reflect"), (9, 8)),
    "replicate": (lambda: nn.Conv2d(5, 6, 3, stride=2, padding=(0, 2), padding_mode="replicate"), (9, 8)),
    "circular": (lambda: nn.Conv2d(5, 6, 3, padding=1, padding_mode="circular"), (9, 8)),
    "sound": (lambda: nn.Conv1d(5, 6, 3, stride=2, padding=1), (11,)),
    "sound, dilation": (lambda: nn.Conv1d(5, 6, 4, padding=3, dilation=2, bias=False), (11,)),
    "sound, same": (lambda: nn.Conv1d(5, 6, 4, padding="same"), (11,)),
    "sound, circular": (lambda: nn.Conv1d(5, 6, 3, padding=2, padding_mode="circular"), (11,)),
}


@pytest.mark.parametrize("kind", ["low_rank", "tucker", "cp"])
@pytest.mark.parametrize("name", KERNELS)
def test_links_compute_what_a_convolution_with_their_product_does(name: str, kind: str) -> None:
    make, size = KERNELS[name]
    layer: Any = make().double()
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    ranks = {"low_rank": {"rank": 3, "embedding": False}, "tucker": {"ranks": [3, 4]}, "cp": {"rank": 7}}[kind]
    options = {"shape": list(layer.weight.shape), "dtype": "float64", **ranks}
    tensors = {n: torch.randn(s.shape, dtype=torch.float64) for n, s in tensor_specs_of(kind, options).items()}
    links = replace_weight_(layer, kind, options, tensors, None)
    layer.weight = nn.Parameter(product(kind, tensors))
    assert isinstance(links, FactorChain)
    assert torch.allclose(links.weight, layer.weight, atol=1e-12)
    assert torch.allclose(links(x), layer(x), atol=1e-10)
    whole = merge_factor_chain(links)
    assert type(whole) is type(layer) and repr(whole) == repr(layer)
    assert torch.allclose(whole(x), layer(x), atol=1e-10)


def product(kind: str, tensors: dict[str, Tensor]) -> Tensor:
    """The weight that the links stand for, written out."""
    parts = [t.flatten(2) if kind != "cp" else t for t in tensors.values()]
    if kind == "low_rank":
        return torch.einsum("tr,rs...->ts...", parts[1][:, :, 0], tensors["first"])
    if kind == "tucker":
        return torch.einsum("ta,ab...,bs->ts...", parts[2][:, :, 0], tensors["second"], parts[0][:, :, 0])
    down, *along, up = (t.squeeze() for t in tensors.values())
    lengths = [t.view(7, -1) for t in along]
    letters = "ij"[: len(lengths)]
    terms = ",".join(f"r{letter}" for letter in letters)
    return torch.einsum(f"tr,rs,{terms}->ts{letters}", up, down, *lengths)


def test_a_link_may_be_a_chain() -> None:
    words, index = nn.Embedding(12, 10), torch.tensor([[1, 4, 11]])
    pair: Any = replace_weight_(words, "low_rank", {}, full_rank(words), None)
    pair.first = replace_weight_(pair.first, "low_rank", {}, full_rank(pair.first), None)
    assert torch.allclose(pair(index), words(index), atol=1e-5)
    assert torch.allclose(pair.weight, words.weight, atol=1e-5)

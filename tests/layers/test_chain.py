"""Two layers in place of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trimodal.layers import Chain, merged, replaced_, unhost_
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
    pair = replaced_(layer, "low_rank", {}, full_rank(layer), None)
    assert isinstance(pair, Chain)
    assert torch.allclose(pair(x), expected, atol=1e-5)
    assert torch.allclose(pair.weight, weight, atol=1e-5)  # type: ignore[arg-type]
    assert (pair.bias is None) == (bias is None) and (bias is None or torch.equal(pair.bias, bias))
    whole = merged(pair)
    assert type(whole) is type(layer)
    assert torch.allclose(whole(x), expected, atol=1e-5)
    assert whole.state_dict().keys() == layer.state_dict().keys()


def test_pair_says_what_the_layer_said_of_itself() -> None:
    conv = nn.Conv1d(3, 6, 3, stride=2)
    pair = replaced_(conv, "low_rank", {}, full_rank(conv), None)
    assert (pair.stride, pair.kernel_size, pair.out_channels) == ((2,), (3,), 6)
    words = nn.Embedding(12, 10)
    assert replaced_(words, "low_rank", {}, full_rank(words), None).num_embeddings == 12


def test_factors_may_be_quantized_and_merged_again() -> None:
    layer, x = nn.Linear(10, 6), torch.randn(4, 10)
    pair = replaced_(layer, "low_rank", {}, full_rank(layer), None)
    assert isinstance(pair, Chain)
    for factor in (pair.first, pair.second):
        weight = factor.weight.detach()  # type: ignore[union-attr, operator]
        grid = fit_grid(weight, 8, "channel")
        options = {**grid.options(), "shape": list(weight.shape), "dtype": "float32"}
        replaced_(factor, "quantized", options, grid.tensors(grid.encode(weight)), None)
    expected = pair(x)
    for factor in (pair.first, pair.second):
        unhost_(factor)
    assert torch.allclose(merged(pair)(x), expected, atol=1e-5)


def test_a_new_bias_takes_the_old_ones_place() -> None:
    layer = nn.Linear(10, 6)
    bias = torch.randn(6)
    pair = replaced_(layer, "low_rank", {}, full_rank(layer), bias)
    assert isinstance(pair, Chain) and pair.bias is not None and torch.equal(pair.bias, bias)


def test_other_kinds_have_no_low_rank_form() -> None:
    with pytest.raises(TypeError, match="no low_rank form of LayerNorm"):
        replaced_(nn.LayerNorm(4), "low_rank", {}, {"first": torch.ones(1, 4), "second": torch.ones(4, 1)}, None)

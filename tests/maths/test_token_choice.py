"""Which tokens are chosen, and what becomes of the others, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trimodal.maths import token_choice as choice


def at_angles(*degrees: float) -> Tensor:
    """Features (1, n, 2) of unequal sizes at these angles."""
    turned = [(math.cos(math.radians(d)) * (n + 1), math.sin(math.radians(d)) * (n + 1)) for n, d in enumerate(degrees)]
    return torch.tensor([turned])


@pytest.mark.parametrize(("tokens", "share", "kept"), [(576, 0.5, 288), (576, 0.0, 576), (3, 0.95, 1), (1, 0.95, 1), (10, 0.25, 8)])
def test_how_many_are_kept(tokens: int, share: float, kept: int) -> None:
    assert choice.count_kept_tokens(tokens, share) == kept


@pytest.mark.parametrize(("keep", "places"), [(1, [3]), (2, [0, 3]), (3, [0, 2, 3]), (4, [0, 1, 2, 3])])
def test_max_min_picks_what_is_farthest_from_all_picked(keep: int, places: list[int]) -> None:
    """The docstring's example."""
    assert choice.choose_diverse(at_angles(0, 10, 90, 180), keep).tolist() == [places]


def test_max_min_takes_equal_tokens_once_as_long_as_there_are_others() -> None:
    features = torch.eye(4)[[0, 0, 1, 1, 2, 3]][None]
    assert choice.choose_diverse(features, 4).tolist() in [[[a, b, 4, 5]] for a in (0, 1) for b in (2, 3)]
    assert choice.choose_diverse(features, 6).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_the_strongest_stand_in_their_order() -> None:
    assert choice.choose_strongest(torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.4, 0.1, 0.3, 0.2]]), 2).tolist() == [[1, 3], [0, 2]]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("shared", [1, 2])
def test_attention_is_that_of_the_whole_matrix(first: bool, shared: int) -> None:
    queries, keys = torch.randn(2, 130, 4 * 8), torch.randn(2, 130, 4 // shared * 8)
    heads = keys.unflatten(-1, (-1, 8)).repeat_interleave(shared, dim=2)
    matrix = torch.einsum("bqhd,bkhd->bhqk", queries.unflatten(-1, (4, 8)), heads).div(math.sqrt(8)).softmax(-1).mean(1)
    found = choice.measure_attention(queries, keys, 8, first)
    assert torch.allclose(found, matrix[:, 0] if first else matrix.mean(1), atol=1e-6)
    assert torch.allclose(found.sum(1), torch.ones(2))


def test_a_token_that_stays_is_the_mean_of_those_that_join_it() -> None:
    """The example of `prune.tokens`."""
    x = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 2.0], [1.0, 1.0]]])
    found = choice.join_nearest(x, torch.tensor([[1, 2]]), torch.tensor([[1, 2]]))
    assert torch.allclose(found[0, 1], torch.tensor([4 / 3, 1 / 3])) and torch.equal(found[0, [0, 2, 3]], x[0, [0, 2, 3]])


def test_context_stands_for_what_is_not_kept_and_leaves_that_alone() -> None:
    kept = torch.tensor([[2, 5], [0, 1]])
    context = choice.choose_context(kept, 8, 2)
    assert context.tolist() == [[0, 4], [2, 5]]
    x = torch.randn(2, 8, 6)
    found = choice.join_nearest(x, kept, context)
    rows = torch.arange(2)[:, None]
    assert torch.equal(found[rows, kept], x[rows, kept])
    weights = torch.ones(2, 8).scatter(1, kept, 0.0)  # the context's means count all that is not kept, each once
    sizes = torch.stack([torch.linalg.lstsq(found[b, context[b]].T, (x[b] * weights[b, :, None]).sum(0)).solution for b in range(2)])
    assert torch.allclose(sizes.sum(1), torch.full((2,), 6.0), atol=1e-3) and torch.allclose(sizes, sizes.round(), atol=1e-3)

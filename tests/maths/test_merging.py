"""Which token goes where, by hand and by law."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from trimodal.maths.merging import (
    average_tokens,
    group_neighbours,
    logit_bias,
    match_tokens,
    max_removable_tokens,
    restore_tokens,
)


def ones(batch: int, tokens: int) -> Tensor:
    return torch.ones(batch, tokens)


def test_four_tokens_by_hand() -> None:
    """Those of the module's docstring, and what their states and logits become."""
    metric = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    target = match_tokens(metric, ones(1, 4), remove=1)
    assert target.tolist() == [[1, 1, 0, 2]]
    hidden, sizes = average_tokens(torch.tensor([[[2.0], [4.0], [6.0], [8.0]]]), ones(1, 4), target, 3)
    assert hidden.flatten().tolist() == pytest.approx([6.0, 3.0, 8.0], abs=1e-6)
    assert sizes.tolist() == [[1.0, 2.0, 1.0]]
    assert restore_tokens(hidden, target).flatten().tolist() == pytest.approx([3.0, 3.0, 6.0, 8.0], abs=1e-6)
    assert logit_bias(sizes, True, torch.float32).tolist() == [pytest.approx([0.0, math.log(2), 0.0], abs=1e-6)]
    assert logit_bias(sizes, False, torch.float32).tolist() == [[0.0, 0.0, 0.0]]
    both = match_tokens(metric, ones(1, 4), remove=2)
    assert both.tolist() == [[0, 0, 1, 1]]


def test_means_are_weighted_by_size() -> None:
    """A token that stands for three and one that stands for one: (3 · 1 + 1 · 5) / 4 = 2."""
    target = torch.tensor([[0, 0]])
    hidden, sizes = average_tokens(torch.tensor([[[1.0], [5.0]]]), torch.tensor([[3.0, 1.0]]), target, 1)
    assert hidden.item() == pytest.approx(2.0, abs=1e-6) and sizes.tolist() == [[4.0]]


def test_several_may_join_one() -> None:
    metric = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [1.0, 0.0], [0.0, 1.0]]])
    target = match_tokens(metric, ones(1, 4), remove=2)
    assert target.tolist() == [[0, 0, 0, 1]]
    assert average_tokens(metric, ones(1, 4), target, 2)[1].tolist() == [[3.0, 1.0]]


def test_strided_by_hand() -> None:
    assert group_neighbours(7, 3).tolist() == [[0, 0, 0, 1, 1, 1, 2]]
    assert group_neighbours(5, 2, protected=1).tolist() == [[0, 1, 1, 2, 2]]
    hidden, sizes = average_tokens(torch.arange(7.0)[None, :, None], ones(1, 7), group_neighbours(7, 3), 3)
    assert hidden.flatten().tolist() == pytest.approx([1.0, 4.0, 6.0], abs=1e-6)
    assert sizes.tolist() == [[3.0, 3.0, 1.0]]


@given(
    st.integers(1, 3), st.integers(1, 24), st.integers(0, 2), st.floats(0, 1), st.integers(0, 1000), st.booleans()
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_laws(batch: int, tokens: int, protected: int, part: float, seed: int, padded: bool) -> None:
    """Sizes add up to what they were, so does Σ size · state, every place is taken, the protected do not move."""
    random = torch.Generator().manual_seed(seed)
    protected = min(protected, tokens)
    remove = round(part * max_removable_tokens(tokens, protected))
    metric = torch.randn(batch, tokens, 5, generator=random, dtype=torch.float64)
    sizes = torch.randint(0 if padded else 1, 4, (batch, tokens), generator=random).double()
    sizes[:, :protected] = 1.0
    target = match_tokens(metric, sizes, remove, protected)
    hidden, after = average_tokens(metric, sizes, target, tokens - remove)
    assert hidden.shape == (batch, tokens - remove, 5) and after.shape == hidden.shape[:2]
    assert torch.equal(target[:, :protected], torch.arange(protected).expand(batch, -1))
    assert torch.equal(hidden[:, :protected], metric[:, :protected])
    assert all(row.unique().numel() == tokens - remove for row in target)
    assert torch.allclose(after.sum(1), sizes.sum(1))
    assert torch.allclose((hidden * after[:, :, None]).sum(1), (metric * sizes[:, :, None]).sum(1))
    assert torch.equal(target, match_tokens(metric, sizes, remove, protected))


def test_removing_nothing_is_the_identity() -> None:
    metric = torch.randn(2, 7, 4)
    target = match_tokens(metric, ones(2, 7), 0, protected=1)
    hidden, sizes = average_tokens(metric, ones(2, 7), target, 7)
    assert torch.equal(hidden, metric) and torch.equal(restore_tokens(hidden, target), metric) and bool((sizes == 1).all())


@pytest.mark.parametrize(("tokens", "protected", "most"), [(197, 1, 98), (16, 0, 8), (5, 2, 1), (1, 1, 0), (2, 3, 0)])
def test_at_most_half(tokens: int, protected: int, most: int) -> None:
    assert max_removable_tokens(tokens, protected) == most
    with pytest.raises(ValueError, match=f"at most {most} can"):
        match_tokens(torch.randn(1, tokens, 2), ones(1, tokens), most + 1, protected)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def test_equal_tokens_merge_without_loss() -> None:
    """The paper's reason for proportional attention: copies, merged, get the attention that they had together."""
    distinct = torch.randn(1, 6, 8, dtype=torch.float64)
    copies = distinct.repeat_interleave(2, dim=1)  # neighbours are equal: one falls to A, one to B
    weights = [torch.randn(8, 8, dtype=torch.float64) for _ in range(3)]
    queries = torch.randn(1, 3, 8, dtype=torch.float64)
    q, k, v = (x @ w for x, w in zip((queries, copies, copies), weights))
    target = match_tokens(k, ones(1, 12).double(), remove=4)
    left, sizes = average_tokens(copies, ones(1, 12).double(), target, 8)
    assert sizes.tolist() == [[1.0, 1.0, *sizes[0, 2:].tolist()]] and sorted(sizes[0].tolist()) == [1.0] * 4 + [2.0] * 4
    again = attention(q, left @ weights[1], left @ weights[2], logit_bias(sizes, True, torch.float64)[:, None])
    assert torch.allclose(again, attention(q, k, v), atol=1e-12)
    without = attention(q, left @ weights[1], left @ weights[2])
    assert not torch.allclose(without, attention(q, k, v), atol=1e-3)


def test_padding_goes_first_and_changes_nothing() -> None:
    hidden = torch.randn(1, 8, 4)
    sizes = torch.tensor([[1.0, 1, 1, 1, 1, 1, 0, 0]])
    target = match_tokens(hidden, sizes, remove=1)
    left, after = average_tokens(hidden, sizes, target, 7)
    assert sorted(after[0].tolist()) == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert torch.allclose(restore_tokens(left, target)[:, :6], hidden[:, :6], atol=1e-6)
    assert bool((logit_bias(after, True, torch.float32)[after == 0] < -1e38).all())


def test_merging_what_is_alike_loses_less_than_merging_neighbours() -> None:
    """The paper's claim against the trivial baseline: states that fall into clusters, in no order."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(6, 16, generator=random)
    hidden = centres[torch.randint(0, 6, (4, 48), generator=random)] + 0.1 * torch.randn(4, 48, 16, generator=random)

    def loss(target: Tensor) -> float:
        left, _ = average_tokens(hidden, ones(4, 48), target, 24)
        return float((restore_tokens(left, target) - hidden).square().sum() / hidden.square().sum())

    assert loss(match_tokens(hidden, ones(4, 48), 24)) < 0.1 * loss(group_neighbours(48, 2).expand(4, -1))

"""Which weights stay, and what they become."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimodal.errors import TrimodalError
from trimodal.maths import masks
from trimodal.maths.error import quadratic_form
from trimodal.maths.masks import keep_largest, keep_n_of_m, kept_count, refit_weights

shapes = {"rows": st.integers(1, 6), "columns": st.integers(1, 30), "seed": st.integers(0, 99)}


@settings(max_examples=80, deadline=None)
@given(sparsity=st.floats(0, 1), levels=st.integers(1, 4), **shapes)
def test_every_row_keeps_exactly_its_count_of_largest(
    rows: int, columns: int, seed: int, sparsity: float, levels: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (rows, columns), generator=random).float()  # few levels: many ties
    mask = keep_largest(scores, sparsity)
    kept = kept_count(columns, sparsity)
    assert kept == columns - round(columns * sparsity)
    assert mask.sum(1).tolist() == [kept] * rows
    if 0 < kept < columns:
        assert all(scores[r][mask[r]].min() >= scores[r][~mask[r]].max() for r in range(rows))


def test_among_equals_the_earlier_column_stays() -> None:
    assert keep_largest(torch.ones(1, 4), 0.5).tolist() == [[True, True, False, False]]


@settings(max_examples=80, deadline=None)
@given(sparsity=st.floats(0, 1), share=st.floats(0, 1), levels=st.integers(1, 4), **shapes)
def test_inside_of_a_mask_the_count_is_the_same(
    rows: int, columns: int, seed: int, sparsity: float, share: float, levels: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    scores = torch.randint(-1, levels, (rows, columns), generator=random).float()
    within = torch.rand(rows, columns, generator=random) < share
    mask, kept = keep_largest(scores, sparsity, within), kept_count(columns, sparsity)
    assert not (mask & ~within).any()
    assert int(mask.sum()) == min(rows * kept, int(within.sum()))
    if int(within.sum(1).min()) >= kept:
        assert mask.sum(1).tolist() == [kept] * rows
    assert torch.equal(keep_largest(scores, sparsity, torch.ones_like(within)), keep_largest(scores, sparsity))


def test_a_row_with_too_few_keeps_them_and_others_keep_more() -> None:
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0], [1.0, 4.0, 3.0, 2.0], [4.0, 3.0, 2.0, 1.0]])
    within = torch.tensor([[False, False, False, True], [True] * 4, [True] * 4])
    found = keep_largest(scores, 0.5, within)
    assert found.int().tolist() == [[0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 0, 0]]


@settings(max_examples=80, deadline=None)
@given(of=st.integers(2, 8), kept=st.integers(1, 8), levels=st.integers(1, 4), **shapes)
def test_every_run_keeps_its_largest(rows: int, columns: int, seed: int, of: int, kept: int, levels: int) -> None:
    kept = min(kept, of)
    scores = torch.randint(0, levels, (rows, columns), generator=torch.Generator().manual_seed(seed)).float()
    mask = keep_n_of_m(scores, kept, of)
    assert mask.shape == scores.shape
    for start in range(0, columns, of):
        run, chosen = scores[:, start : start + of], mask[:, start : start + of]
        assert chosen.sum(1).tolist() == [min(kept, run.shape[1])] * rows
        if chosen.any() and not chosen.all():
            assert all(run[r][chosen[r]].min() >= run[r][~chosen[r]].max() for r in range(rows))


@settings(max_examples=40, deadline=None)
@given(damping=st.sampled_from([1e-6, 1e-3, 0.1]), tokens=st.sampled_from([3, 60]), **shapes)
def test_refit_never_increases_the_error(rows: int, columns: int, seed: int, damping: float, tokens: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, columns, generator=random) @ torch.randn(columns, columns, generator=random)
    weight, moment = torch.randn(rows, columns, generator=random), x.T @ x / tokens
    mask = torch.rand(rows, columns, generator=random) < 0.5
    fitted = refit_weights(weight, mask, moment, damping)
    assert not fitted[~mask].any()
    energy = quadratic_form(weight, moment)
    assert quadratic_form(weight - fitted, moment) <= quadratic_form(weight * ~mask, moment) + 1e-6 * energy


def test_refit_solves_the_normal_equations() -> None:
    x = torch.randn(400, 12) @ torch.randn(12, 12)
    weight, moment, mask = torch.randn(5, 12), x.T @ x / 400, torch.rand(5, 12) < 0.6
    fitted = refit_weights(weight, mask, moment, 1e-9)
    gradient = (fitted - weight) @ moment  # of half the error; zero on what was free to move
    assert gradient[mask].abs().max() < 1e-4 * gradient[~mask].abs().max()


def test_refit_with_everything_kept_changes_nothing() -> None:
    x = torch.randn(100, 8) @ torch.randn(8, 8)
    weight = torch.randn(4, 8)
    assert torch.allclose(refit_weights(weight, torch.ones(4, 8, dtype=torch.bool), x.T @ x, 0.1), weight, atol=1e-5)


def test_refit_leaves_weights_on_inputs_that_never_fire() -> None:
    moment = torch.diag(torch.tensor([1.0, 0.0, 2.0]))
    mask = torch.tensor([[True, True, False]])
    assert torch.allclose(refit_weights(torch.tensor([[1.0, 2.0, 3.0]]), mask, moment, 1e-3), torch.tensor([[1.0, 2.0, 0.0]]))


def test_refit_on_numbers_that_are_none_says_so() -> None:
    moment = torch.eye(3)
    moment[0, 1] = moment[1, 0] = float("nan")
    with pytest.raises(TrimodalError, match="raise damping or give more samples"):
        refit_weights(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), moment, 1e-3)


@pytest.mark.parametrize("even", [True, False])
def test_the_refit_of_all_rows_at_once_is_that_of_each(even: bool) -> None:
    random = torch.Generator().manual_seed(3)
    weight, x = torch.randn(40, 24, generator=random), torch.randn(300, 24, generator=random) @ torch.randn(24, 24, generator=random)
    c = x.T @ x / 300
    mask = keep_largest(weight.abs(), 0.5) if even else torch.rand(40, 24, generator=random) < 0.5
    mask[7] = False
    found = refit_weights(weight, mask, c, 0.01)
    damped = c.double() + 0.01 * c.double().diagonal().mean() * torch.eye(24)
    for row, (w, kept) in enumerate(zip(weight.double(), mask, strict=True)):
        expected = torch.zeros(24, dtype=torch.float64)
        expected[kept] = torch.linalg.solve(damped[kept][:, kept], (w @ damped)[kept])
        assert torch.allclose(found[row].double(), expected, atol=1e-5), row


def test_a_refit_that_would_never_end_descends_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conjugate gradients come to the same weights where they can go on, and never end up worse than they began."""
    random = torch.Generator().manual_seed(4)
    weight, x = torch.randn(30, 60, generator=random), torch.randn(400, 60, generator=random) * torch.logspace(0, 1, 60)
    c, mask = x.T @ x / 400, keep_largest(weight.abs(), 0.5)
    exact = refit_weights(weight, mask, c, 0.01)
    monkeypatch.setattr(masks, "_MOST_OPERATIONS", 1.0)
    assert not masks.is_refit_exact(mask)
    near = refit_weights(weight, mask, c, 0.01)
    assert not near[~mask].any() and torch.allclose(near, exact, atol=1e-4)
    for steps in range(4):
        monkeypatch.setattr(masks, "_DESCENTS", steps)
        some = refit_weights(weight, mask, c, 0.01)
        assert quadratic_form(weight - some, c) <= 1.0001 * quadratic_form(weight - weight * mask, c)


def test_the_cost_of_a_refit_is_known_beforehand() -> None:
    assert masks.is_refit_exact(torch.ones(768, 1536, dtype=torch.bool))
    assert not masks.is_refit_exact(torch.ones(4096, 5504, dtype=torch.bool))

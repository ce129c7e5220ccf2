"""The terms of distillation by hand, and that a student which is its teacher has neither loss nor gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from trimodal.core import Layout, Tower
from trimodal.errors import RecipeError
from trimodal.training.distilling.affinity import affinity_distance, compute_similarities
from trimodal.training.distilling.distances import embedding_distance, score_distance
from trimodal.training.distilling.imitating import relative_distance
from trimodal.training.distilling.matching import match_blocks, match_towers
from trimodal.training.distilling.relations import (
    choose_relation_heads,
    compare_relations,
    part_into_heads,
    relate_tokens,
    relation_distance,
)
from trimodal.training.distilling.states import Rows, pick_rows
from trimodal.training.distilling.top_scores import keep_top_scores, top_score_distance


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_scores_by_hand() -> None:
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    # ¾ and ¼ against ½ and ½
    assert float(score_distance(teacher, student, 1.0)) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    # at T = 2 the teacher has √3 : 1
    share = math.sqrt(3) / (1 + math.sqrt(3))
    by_hand = 4 * (share * math.log(2 * share) + (1 - share) * math.log(2 * (1 - share)))
    assert float(score_distance(teacher, student, 2.0)) == pytest.approx(by_hand)


def test_scores_are_a_mean_over_words_not_over_the_vocabulary() -> None:
    teacher, student = draw(6, 50), draw(6, 50, seed=1)
    each = torch.stack([score_distance(teacher[row : row + 1], student[row : row + 1], 2.0) for row in range(6)])
    assert torch.allclose(score_distance(teacher, student, 2.0), each.mean())
    mask = torch.tensor([1, 1, 0, 0, 0, 1])
    assert torch.allclose(score_distance(teacher, student, 2.0, mask), each[mask > 0].mean())


def test_top_scores_by_hand() -> None:
    teacher = torch.log(torch.tensor([[0.75, 0.125, 0.125]]))
    kept, classes = keep_top_scores(teacher, 1, 1.0)
    assert kept.exp().tolist() == [pytest.approx([0.75, 0.25])] and classes.tolist() == [[0]]
    found = top_score_distance(kept, classes, torch.zeros(1, 3), 1.0)
    assert float(found) == pytest.approx(0.75 * math.log(0.75 * 3) + 0.25 * math.log(0.25 * 1.5))
    # T² at T = 2, and never more than the whole divergence
    teacher, student = draw(5, 9), draw(5, 9, seed=1)
    part = float(top_score_distance(*keep_top_scores(teacher, 3, 2.0), student, 2.0))
    assert 0 < part < float(score_distance(teacher, student, 2.0))


def test_relations_by_hand() -> None:
    # one token with query 0 and one with 1, width 1: the second looks at them as 1 : e; a student of zeros finds all alike
    teacher, student = torch.tensor([[[0.0], [1.0]]]), torch.zeros(1, 2, 1)
    share = math.e / (1 + math.e)
    by_hand = (share * math.log(2 * share) + (1 - share) * math.log(2 * (1 - share))) / 2  # the first token agrees
    real = torch.ones(1, 2, dtype=torch.bool)
    assert float(compare_relations(teacher, student, real, 1)) == pytest.approx(by_hand)


def test_relations_are_scaled_by_the_width_of_a_part() -> None:
    states = draw(1, 3, 8)
    found = relate_tokens(*[part_into_heads(states, 2)] * 2, torch.ones(1, 3, dtype=torch.bool))
    for head in range(2):
        part = states[0, :, 4 * head : 4 * head + 4]
        assert torch.allclose(found[0, head], functional.log_softmax(part @ part.T / 2, dim=-1), atol=1e-6)


def test_relations_do_not_care_for_the_number_of_heads() -> None:
    """The same states out of attentions of 2 and of 4 heads have the same relations, and widths may differ."""
    states, real = draw(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    as_two, as_four = (part_into_heads(states, heads).transpose(1, 2).flatten(2) for heads in (2, 4))
    assert float(compare_relations(as_two, as_four, real, 4)) == 0
    wider = torch.cat([states.unflatten(-1, (4, 2)), torch.zeros(2, 5, 4, 2)], dim=-1).flatten(2) * 2**0.25
    # parts of width 4 with zeros: q kᵀ/√4 equals q kᵀ/√2 once both are scaled by 2^¼
    assert float(compare_relations(states, wider, real, 4)) == pytest.approx(0, abs=1e-6)
    assert [choose_relation_heads(64, 48, usual) for usual in (4, 12, 16)] == [4, 8, 16]


def test_padding_has_no_relations() -> None:
    teacher, student = draw(1, 4, 8), draw(1, 4, 8, seed=1)
    real = torch.tensor([[True, True, True, False]])
    cut = torch.ones(1, 3, dtype=torch.bool)
    assert torch.allclose(compare_relations(teacher, student, real, 2), compare_relations(teacher[:, :3], student[:, :3], cut, 2))


def test_causal_relations_see_nothing_that_comes_after() -> None:
    q = part_into_heads(draw(1, 3, 4), 1)
    found = relate_tokens(q, q, torch.ones(1, 3, dtype=torch.bool), causal=True).exp()
    assert found[0, 0, 0].tolist() == [1, 0, 0] and float(found[0, 0, 1, 2]) == 0


def test_affinity_by_hand() -> None:
    apart = torch.eye(2)
    alike = torch.ones(2, 2)
    found = affinity_distance((apart, apart), (alike, alike), math.log(3), 1.0)
    assert float(found) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_affinity_goes_both_ways() -> None:
    a, b = (draw(3, 4, seed=1), draw(3, 4, seed=2)), (draw(3, 5, seed=3), draw(3, 5, seed=4))
    t, s = 2 * compute_similarities(*a), 3 * compute_similarities(*b)
    one, other = (functional.kl_div(x.log_softmax(1), y.softmax(1), reduction="batchmean") for x, y in ((s, t), (s.T, t.T)))
    assert torch.allclose(affinity_distance(a, b, 2.0, 3.0), (one + other) / 2, atol=1e-6)
    longer = (5 * a[0], 7 * a[1])
    assert torch.allclose(affinity_distance(longer, b, 2.0, 3.0), (one + other) / 2, atol=1e-6)


def test_features_are_relative_and_a_mean_over_samples() -> None:
    teacher = Rows(torch.tensor([[2.0], [0.0], [1.0]]), torch.tensor([2, 1]))  # two tokens, then one
    student = torch.tensor([[1.0], [1.0], [3.0]])
    assert float(relative_distance(teacher, student)) == pytest.approx((2 / 4 + 4 / 1) / 2)


@pytest.mark.parametrize(
    "distance",
    [
        lambda t, s: score_distance(t, s, 3.0),
        lambda t, s: top_score_distance(*keep_top_scores(t, 4, 3.0), s, 3.0),
        lambda t, s: compare_relations(t[None], s[None], torch.ones(1, 5, dtype=torch.bool), 2),
        lambda t, s: affinity_distance((t, t.flip(0)), (s, s.flip(0)), 10.0, 10.0),
        lambda t, s: relative_distance(Rows(t, torch.tensor([2, 3])), s),
        lambda t, s: embedding_distance(t, s),
        lambda t, s: relation_distance(t[None, None].log_softmax(-1), s[None, None].log_softmax(-1), torch.ones(1, 5, dtype=torch.bool)),
    ],
)
def test_a_student_that_is_its_teacher(distance: object) -> None:
    teacher = draw(5, 8)
    student = teacher.clone().requires_grad_()
    loss = distance(teacher, student)  # type: ignore[operator]
    loss.backward()
    assert student.grad is not None
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6) and float(student.grad.abs().max()) < 1e-6
    other = (teacher + draw(5, 8, seed=1)).requires_grad_()
    loss = distance(teacher, other)  # type: ignore[operator]
    loss.backward()
    assert other.grad is not None
    assert float(loss.detach()) > 1e-3 and float(other.grad.abs().max()) > 1e-4


def test_rows_of_samples() -> None:
    states = torch.arange(12.0).view(2, 3, 2)
    rows = pick_rows(states, torch.tensor([[True, True, False], [True, True, True]]))
    assert rows.counts.tolist() == [2, 3]
    dense, real = rows.to_dense()
    assert real.tolist() == [[True, True, False], [True, True, True]]
    assert torch.equal(dense[1], states[1]) and dense[0, 2].tolist() == [0, 0]
    assert rows.number_samples().tolist() == [0, 0, 1, 1, 1]
    assert [len(own) for own in rows.split()] == [2, 3]
    left = pick_rows(states, torch.tensor([[False, True, True], [True, True, True]]))  # padded on the left
    assert torch.equal(left.to_dense()[0][0, :2], states[0, 1:])
    picture = pick_rows(torch.zeros(2, 5, 4, 4), None)
    assert picture.values.shape == (32, 5) and picture.counts.tolist() == [16, 16]


def test_matching_blocks() -> None:
    assert match_blocks(12, 4, "uniform") == [2, 5, 8, 11]
    assert match_blocks(12, 4, "last") == [8, 9, 10, 11]
    assert match_blocks(6, 6, "uniform") == list(range(6))
    assert match_blocks(2, 3, "uniform")[-1] == 1  # a student may have more
    teacher = Layout((Tower("text", "text", ("t.0", "t.1", "t.2")),), ())
    student = Layout((Tower("text", "text", ("s.0",)),), ())
    assert match_towers(teacher, student, "uniform") == {"s.0": "t.2"}
    assert match_towers(teacher, student, {"text": [1]}) == {"s.0": "t.1"}
    with pytest.raises(RecipeError, match=r"distill.layers gives \[3\] for text, where the student has 1 blocks and the teacher 3"):
        match_towers(teacher, student, [3])
    with pytest.raises(RecipeError, match=r"the student's tower image \(1 blocks\) has nothing to learn from: the teacher has text"):
        match_towers(teacher, Layout((Tower("image", "image", ("v.0",)),), ()), "uniform")

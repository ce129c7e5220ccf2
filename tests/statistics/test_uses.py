"""Rows that were used, and the inputs of groups, against sums over all rows at once."""

from __future__ import annotations

import pytest
import torch

from trimodal.maths.error import grouped_error, output_error, rows_error
from trimodal.statistics import GroupedMoment, RowUsage, mix_grouped


def test_uses_count_rows() -> None:
    uses = RowUsage(5)
    uses.update(torch.tensor([[0, 1, 1]]))
    uses.update(torch.tensor([4]))
    assert uses.counts.tolist() == [1, 2, 0, 0, 1] and uses.tokens == 4
    uses.update(torch.empty(0, dtype=torch.long))
    assert uses.tokens == 4


def test_a_row_that_is_never_used_does_not_count() -> None:
    before, after = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0]])
    assert rows_error(before, after, torch.tensor([1.0, 1.0, 0.0])) == pytest.approx(1 / 5)
    assert rows_error(before, after, torch.tensor([4.0, 1.0, 0.0])) == pytest.approx(4 / 8)
    assert rows_error(before, after, torch.zeros(3)) == 0


def test_groups_have_moments_of_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 6, generator=generator)
    whole = GroupedMoment(2, 3)
    for part in x.split(11):
        whole.update(part)
    whole.update(x[:0])
    for group in (0, 1):
        own = x[:, 3 * group : 3 * group + 3]
        torch.testing.assert_close(whole.second[group], own.T @ own / 30)
        torch.testing.assert_close(whole.mean[group], own.mean(0))


def test_the_error_in_groups_is_that_of_the_outputs() -> None:
    generator = torch.Generator().manual_seed(1)
    x, old = torch.randn(40, 6, generator=generator), torch.randn(4, 3, generator=generator)
    new, shift = old + 0.1 * torch.randn(4, 3, generator=generator), torch.randn(4, generator=generator)
    seen = GroupedMoment(2, 3)
    seen.update(x)

    def outputs(weight: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :3] @ weight[:2].T, x[:, 3:] @ weight[2:].T], dim=1)

    moved = outputs(old) - outputs(new) + shift
    expected = float(moved.square().sum() / outputs(old).square().sum())
    assert grouped_error(old, new, seen.second, seen.mean, shift) == pytest.approx(expected, rel=1e-4)
    alone = GroupedMoment(1, 6)
    alone.update(x)
    wide, other = torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator)
    assert grouped_error(wide, other, alone.second, alone.mean) == pytest.approx(
        output_error(wide, other, alone.second[0], alone.mean[0]), rel=1e-5
    )


def test_each_expert_has_the_moment_of_its_own_tokens() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 3)
    seen = GroupedMoment(3, 3)
    seen.update_group(0, x[:4])
    seen.update_group(2, x[4:5])
    seen.update_group(0, x[5:])
    mine = torch.cat([x[:4], x[5:]])
    assert torch.allclose(seen.second[0], mine.T @ mine / 8, atol=1e-6)
    assert torch.allclose(seen.mean[2], x[4])
    assert seen.counts.tolist() == [8, 0, 1] and seen.tokens == 9 and seen.unreached == (1,)
    assert seen.shares.tolist() == [1, 0, 0.125]
    filled = seen.fill_unseen()
    assert filled.second[1].equal(torch.eye(3)) and filled.assumed == 0  # the expert that none reached is told otherwise
    assert seen.second[1].equal(torch.zeros(3, 3))
    assert filled.moment_of(2).tokens == 1


def test_modalities_are_mixed_group_by_group() -> None:
    torch.manual_seed(0)
    image, text = GroupedMoment(2, 3), GroupedMoment(2, 3)
    image.update_group(0, torch.randn(30, 3))
    text.update_group(0, torch.randn(10, 3))
    text.update_group(1, torch.randn(5, 3))
    mixed = mix_grouped({"image": image, "text": text}, "tokens")
    assert torch.allclose(mixed.second[0], (30 * image.second[0] + 10 * text.second[0]) / 40, atol=1e-6)
    assert torch.allclose(mixed.second[1], text.second[1], atol=1e-6)
    assert mixed.counts.tolist() == [40, 5] and mixed.tokens == 45
    assert mix_grouped({"text": text}, "modality") is text

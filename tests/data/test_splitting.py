"""Who calibrates and who verifies: by split, by whole groups, seeded."""

from __future__ import annotations

from trimodal.core import Sample
from trimodal.data import choose_samples, split_calibration_and_held_out


def texts(*groups: str | None, split: str = "") -> list[Sample]:
    return [Sample(line=i + 1, text=f"t{i}", group=group, split=split) for i, group in enumerate(groups)]


def test_split_follows_the_lines() -> None:
    samples = texts("a", split="train") + texts("b", split="test")
    calibration, verification = split_calibration_and_held_out(samples, seed=0)
    assert [s.group for s in calibration] == ["a"] and [s.group for s in verification] == ["b"]


def test_split_never_parts_a_group_and_is_seeded() -> None:
    samples = texts(*(f"g{i // 4}" for i in range(100)))
    calibration, verification = split_calibration_and_held_out(samples, seed=1)
    assert len(verification) == 20 and len(calibration) == 80
    assert not {s.group for s in calibration} & {s.group for s in verification}
    assert [s.line for s in verification] == sorted(s.line for s in verification)
    assert split_calibration_and_held_out(samples, seed=1)[1] == verification
    assert split_calibration_and_held_out(samples, seed=2)[1] != verification


def test_split_keeps_equal_lines_together_and_holds_out_one_of_two() -> None:
    samples = [Sample(line=i, text="same" if i < 5 else "other") for i in range(9)]
    calibration, verification = split_calibration_and_held_out(samples, seed=0)
    assert {s.text for s in calibration} == {"same"} and {s.text for s in verification} == {"other"}
    assert split_calibration_and_held_out(samples[:5], seed=0) == (samples[:5], [])


def test_choose_is_seeded_and_in_file_order() -> None:
    samples = texts(*[None] * 50)
    chosen = choose_samples(samples, 10, seed=3)
    assert [s.line for s in chosen] == sorted({s.line for s in chosen}) and len(chosen) == 10
    assert choose_samples(samples, 10, seed=3) == chosen
    assert choose_samples(samples, 10, seed=4) != chosen
    assert choose_samples(samples, 99, seed=0) == samples

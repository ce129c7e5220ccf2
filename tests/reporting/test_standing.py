"""Two verdicts apart, and what a reader must know beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trimodal.core import Check, DiskSize, Plan, PlannedPlace, TensorGroup, UntouchedTensors, Verdict
from trimodal.core.target_fit import TargetCaution, TargetFit
from trimodal.reporting import standing

LEFT = UntouchedTensors(
    1_000_000,
    (
        TensorGroup("h.*.attn.c_attn.weight", "text", 12, 800_000, "in no place"),
        TensorGroup("h.*.norm.weight", "text", 24, 50_000, "declined"),
        TensorGroup("head.weight", "", 1, 20_000, "not asked for"),
    ),
)


def test_integrity_counts_what_was_not_run_apart(verdict: Verdict) -> None:
    assert standing.judge_integrity(verdict).state == "good"
    missed = replace(verdict, checks=(*verdict.checks, Check("reloads", "not run", "the function has no name")))
    found = standing.judge_integrity(missed)
    assert (found.state, found.badge) == ("careful", "all 2 checks passed, 1 not run")
    assert found.remarks == ("Not run: reloads; the function has no name.",)


@pytest.mark.parametrize(
    ("metrics", "checks", "state", "badge"),
    [
        (False, (), "open", "not judged: no data"),
        (False, (Check("largest drop for all: 1", "not run", "no held-out samples", "quality"),), "open", "not judged: no data"),
        (True, (), "open", "not judged: no floor was set"),
        (True, (Check.from_outcome("x", True, "drop 0.30 points: shown at 95 %", "quality"),), "good", "the floor is held"),
        (True, (Check.from_outcome("x", True, "measured, n too small to show", "quality"),), "careful",
         "the floor is held as measured, not shown at 95 %"),
        (True, (Check.from_outcome("x", False, "drop 58 points: too large", "quality"),) * 2, "bad", "2 of 2 floors broken"),
    ],
)  # fmt: skip
def test_quality_is_judged_only_where_it_can_be(
    verdict: Verdict, metrics: bool, checks: tuple[Check, ...], state: str, badge: str
) -> None:
    shown = replace(verdict, checks=(*verdict.checks[:2], *checks), metrics=verdict.metrics if metrics else ())
    found = standing.judge_quality(shown)
    assert (found.state, found.badge) == (state, badge)
    assert standing.judge_integrity(shown).state == "good"  # one says nothing about the other


def test_a_broken_floor_says_that_the_folder_is_intact(verdict: Verdict) -> None:
    assert standing.describe_failure(verdict) == ""
    lost = Check.from_outcome("agreement: drop at most 3 points", False, "drop 58 points", "quality")
    said = standing.describe_failure(replace(verdict, checks=(lost,)))
    assert said.startswith("quality: agreement") and "the folder is written and intact" in said
    damaged = Check.from_outcome("outputs equal after reload", False, "differ by 3")
    assert standing.describe_failure(replace(verdict, checks=(lost, damaged))) == "integrity: outputs equal after reload; differ by 3"


def test_what_was_left_is_told_by_share_tower_and_name(verdict: Verdict, plan: Plan) -> None:
    said = standing.describe_untouched(LEFT)
    assert said.startswith("left as it was: 87 % of the bytes (870 kB) (text 85 %, no tower 2.0 %): h.*.attn.c_attn.weight")
    cautions = standing.list_cautions(replace(verdict, untouched=LEFT), plan)
    assert cautions[0] == (
        "80 % of the bytes (800 kB) are in no place, so no method can work on them: h.*.attn.c_attn.weight."
    )
    assert "5.0 % of the bytes (50.0 kB) are left alone by the plan's methods" in cautions[1]
    little = UntouchedTensors(1_000_000, (TensorGroup("norm", "text", 1, 90_000, "declined"), *LEFT.alike[2:]))
    assert standing.list_cautions(replace(verdict, untouched=little), plan) == []  # what was not asked for is no caution


def test_what_the_target_does_not_take_is_a_caution(verdict: Verdict, plan: Plan) -> None:
    cautions = (TargetCaution("a.up", "a", "refused", "no such grid"), TargetCaution("b.up", "b", "decoded", "a table"),
                TargetCaution("c.up", "c", "native", "careful"))  # fmt: skip
    assert standing.list_cautions(verdict, replace(plan, target=TargetFit("box", 3, 1, 1, "", cautions))) == [
        "On the target box, cannot be taken: a.up (no such grid).",
        "On the target box, decoded to float when the file is loaded: b.up (a table).",
    ]


def test_a_result_that_is_no_smaller_says_why(verdict: Verdict, plan: Plan) -> None:
    grown = replace(verdict, size=DiskSize(15_456, 16_888, 15_000, 9_000))
    (said,) = standing.list_cautions(grown, replace(plan, expected_tensor_bytes=8_900))
    assert said.startswith("The result is not smaller than the original (15.5 kB → 16.9 kB): configuration and manifest add 7.43 kB")
    barely = replace(verdict, size=DiskSize(1_000_000, 970_000, 990_000, 960_000), untouched=LEFT)
    said = standing.list_cautions(barely, replace(plan, expected_tensor_bytes=955_000))[-1]
    assert said.startswith("The result is barely smaller (1.00 MB → 970 kB): 85 % of the bytes stay as they were")
    place = PlannedPlace("a", ("a",), 100, 140)
    fed = replace(plan, edits=(replace(plan.edits[0], places=(place,)),), expected_tensor_bytes=14_208_112)
    (said,) = standing.list_cautions(replace(verdict, size=DiskSize(100, 140, 100, 140)), replace(fed, expected_tensor_bytes=140))[:1]
    assert "at 1 of 1 places scales and tables take as much as they save (a)" in said
    assert standing.list_cautions(verdict, plan) == []
    larger = standing.list_cautions(replace(verdict, size=replace(verdict.size, weights_after_bytes=2_000_000)), plan)
    assert larger[0].startswith("The weights are larger than planned (2.00 MB, planned 1.56 MB)")


def test_what_counts_for_nothing_is_named(verdict: Verdict, plan: Plan) -> None:
    (said,) = standing.list_cautions(replace(verdict, left_out=(".gitattributes", "README.md", "a.bin", "b", "c", "d", "e/")), plan)
    assert said == "Not counted and not carried over, since no loader of this model reads it: a.bin, b, c, d and 1 more."

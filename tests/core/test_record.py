"""Two verdicts: integrity and quality; passed, failed or not run."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest

from trimodal.core import (
    Check,
    DiskSize,
    FitRecord,
    Metric,
    PlaceRecord,
    TensorGroup,
    TowerSize,
    UntouchedTensors,
    Verdict,
    json_text,
)
from trimodal.core.record import read_record_line
from trimodal.errors import IntegrityError

BARE = Verdict(DiskSize(4, 1, 4, 1), (), (), (), seed=0)


@pytest.mark.parametrize("aspect", ["integrity", "quality"])
def test_one_failure_fails_an_aspect_and_no_other(aspect: str) -> None:
    checks = (Check("a", "passed", "", aspect), Check("b", "failed", "", aspect), Check("c", "not run", "", aspect))  # type: ignore[arg-type]
    verdict = replace(BARE, checks=checks)
    other = {"integrity": verdict.quality, "quality": verdict.integrity}[aspect]
    assert (getattr(verdict, aspect), other, verdict.passed) == ("failed", "not run", False)


def test_what_was_not_run_is_neither_passed_nor_failed() -> None:
    verdict = replace(BARE, checks=(Check("a", "not run", "no name to import"),))
    assert (verdict.integrity, verdict.quality, verdict.passed) == ("not run", "not run", True)
    assert not verdict.checks[0].passed and not verdict.checks[0].failed
    assert replace(BARE, checks=(*verdict.checks, Check.from_outcome("b", True, ""))).integrity == "passed"


def test_survives_json_and_says_both_verdicts_there() -> None:
    verdict = replace(BARE, checks=(Check.from_outcome("a", True, "x"), Check.from_outcome("b", False, "y", "quality")))
    data = verdict.to_json()
    assert Verdict.from_json(data) == verdict
    assert (data["integrity"], data["quality"]) == ("passed", "failed")


def test_reads_checks_of_format_1() -> None:
    data = {**BARE.to_json(), "format": 1, "checks": [{"name": "a", "passed": False, "detail": "z"}]}
    assert Verdict.from_json(data).checks == (Check("a", "failed", "z"),)


METRIC = Metric("recall", "image", "percent", 4, 90.0, 80.0, 10.0, None, None)
FULL = replace(
    BARE, metrics=(METRIC,), checks=(Check.from_outcome("a", True, "x"),), towers=(TowerSize("image", 1, 1, 4, 2),),
    untouched=UntouchedTensors(9, (TensorGroup("a.*", "", 2, 3, "declined"),)), seconds={"load": 1.5}, left_out=("b.txt",),
)  # fmt: skip


def test_verdict_survives_json_whole() -> None:
    data = json.loads(json_text(FULL.to_json()))
    assert Verdict.from_json(data) == FULL
    assert Verdict.from_json({**data, "format": 1, "checks": [{"name": "a", "passed": True, "detail": "x"}]}) == FULL


def test_number_that_json_could_not_hold_is_nan_again() -> None:
    lost = replace(FULL, metrics=(replace(METRIC, after=math.nan, drop=math.nan),))
    (metric,) = Verdict.from_json(json.loads(json_text(lost.to_json()))).metrics
    assert math.isnan(metric.after) and math.isnan(metric.drop) and metric.drop_low is None


@pytest.mark.parametrize(("change", "message"), [
    ({"format": 3}, "v.json has format 3, this version reads up to 2; update trimodal"),
    ({"format": "2"}, "v.json: format is '2', but must be a whole number; verify the artifact anew"),
    ({"size": {"before_bytes": 1}}, "v.json: there is no key 'after_bytes' in size (and 2 more); verify the artifact anew"),
    ({"checks": [{"name": "a", "status": "pased", "detail": ""}]},
     "v.json: checks[0].status is 'pased', but must be one of 'passed', 'failed' or 'not run'; verify the artifact anew"),
    ({"checks": [{"name": "a", "passed": "yes", "detail": ""}]},
     "v.json: there is an unknown key 'passed' in checks[0], mistyped or of a newer trimodal; known: about, detail, name, status "
     "(and 1 more); verify the artifact anew"),
    ({"checks": {}}, "v.json: checks is {}, but must be a list; verify the artifact anew"),
    ({"untouched": {"of_bytes": 3, "alike": [7]}}, "v.json: untouched.alike[0] is 7, but must be a mapping; verify the artifact anew"),
    ({"seconds": None}, "v.json: seconds is None, but must be a mapping; verify the artifact anew"),
    ({"later": 1},
     "v.json: there is an unknown key 'later', mistyped or of a newer trimodal; did you mean 'latency'? Verify the artifact anew"),
])  # fmt: skip
def test_damaged_verdict_says_where(change: dict[str, Any], message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Verdict.from_json({**FULL.to_json(), **change}, "v.json")
    assert str(caught.value) == message


def test_lines_of_the_record() -> None:
    place = PlaceRecord(0, "quantize.rtn", "image.0.up", "image", 0, 8, 4, {"image": 0.5}, None, {"image": 3}, 0.1, ("a",))
    fit = FitRecord(1, "distill", 2, {"logits": 0.5}, 0.1)
    assert [read_record_line(json.loads(json_text(asdict(line))), "r.jsonl, line 1") for line in (place, fit)] == [place, fit]
    assert read_record_line({"kind": "of a newer version"}, "") is None and read_record_line([1], "") is None
    with pytest.raises(IntegrityError, match=r"r\.jsonl, line 1 \(a place line\): error\.image is '0\.5', but must be a number; take"):
        read_record_line({**asdict(place), "error": {"image": "0.5"}}, "r.jsonl, line 1")

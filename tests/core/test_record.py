"""Two verdicts: integrity and quality; passed, failed or not run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trimodal.core import Check, DiskSize, Verdict

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

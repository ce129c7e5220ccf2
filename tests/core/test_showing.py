"""The nouns in a notebook: a short line, and a table that no name can break."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from trimodal.core import Check, DiskSize, Metric, Plan, Source, TowerSize, Verdict
from trimodal.core.showing import format_size, html_table
from trimodal.inventory import inspect
from trimodal.methods import METHODS
from trimodal.pipeline import Result


@pytest.fixture(scope="module")
def shown(compressed: Callable[..., Any]) -> dict[str, Any]:
    done = compressed("clip", [{"prune.heads": {"where": "image.*"}}, {"quantize.rtn": {"bits": 8}}])
    metric = Metric("image", "image", "percent", 100, 90.0, 89.0, 1.0, 0.5, 1.5)
    verdict = Verdict(
        DiskSize(10_000_000, 2_000_000, 1, 1), (TowerSize("image", 1, 1, 1, 1),), (metric,),
        (Check.from_outcome("<b>same", True, "yes"),), 0,
    )  # fmt: skip
    return {
        "plan": done.plan, "inventory": inspect(done.original), "verdict": verdict,
        "result": Result(Path("out"), done.plan, tuple(done.records), verdict),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["plan", "inventory", "verdict", "result"])
def test_short_and_whole(shown: dict[str, Any], name: str) -> None:
    assert len(repr(shown[name])) < 250 and "\n" not in repr(shown[name])
    page, opened = shown[name]._repr_html_(), []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: opened.append(tag)  # type: ignore[method-assign]
    parser.feed(page)
    assert "table" in opened and len(page) < 20_000 and "<b>same" not in page


def test_what_they_say(shown: dict[str, Any]) -> None:
    assert repr(shown["verdict"]) == "<Verdict: 10 MB → 2 MB, image 90.0 % → 89.0 %; integrity passed, quality not judged>"
    assert "W8A16" in shown["plan"]._repr_html_() and "2 edits at" in repr(shown["plan"])


def test_methods_are_short_too() -> None:
    assert all(len(repr(method)) < 200 for method in METHODS)


def test_many_rows_are_cut() -> None:
    page = html_table("many", ("number",), ([str(i)] for i in range(100)))
    assert page.count("<tr>") == 13 and "and 88 more" in page


def test_sizes() -> None:
    assert [format_size(n) for n in (0, 999, 1500, 2_340_000, 5e9)] == ["0 bytes", "999 bytes", "1.5 kB", "2.34 MB", "5 GB"]


def test_an_estimate_is_in_no_file() -> None:
    from trimodal.core import Calibration, Estimate

    plan = Plan(0, Source("m", "clip", "", 1, 4), Calibration(0, None, (), "token"), (), 4, estimate=Estimate({"save": 1.0}))
    assert "estimate" not in plan.to_json() and Plan.from_json(plan.to_json()) == plan

"""What a plan is said to take: more for more work, refused only where it cannot fit, and never kept in a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trimodal import pipeline
from trimodal.errors import InputError
from trimodal.networks.tiny import write_miniature, write_miniature_data
from trimodal.planning import cost
from trimodal.planning.cost import MachineSpeed, Workload, check_memory_for, estimate_cost

PACE = MachineSpeed(flops=1e11, bytes=1e10)


@pytest.fixture(scope="module")
def done(compressed: Callable[..., Any]) -> Any:
    return compressed("clip", [{"quantize.rtn": {"where": "*embedding*"}}, {"quantize.gptq": {}}])


def test_more_work_takes_longer(done: Any) -> None:
    def seconds(plan: Any = done.plan, pace: MachineSpeed = PACE, reading: float = 4.0, **work: int) -> dict[str, float]:
        return dict(estimate_cost(plan, done.original.layout, Workload(macs=10**9, **work), reading, pace).seconds)

    plain = seconds()
    assert list(plain) == ["compress", "save", "reload", "verify"] and plain["reload"] >= 4.0
    assert seconds(statistics=100)["compress"] > plain["compress"]
    assert seconds(held_out=100)["verify"] > plain["verify"]
    assert seconds(reading=9.0)["reload"] > plain["reload"]
    assert seconds(pace=MachineSpeed(1e10, 1e9))["compress"] > plain["compress"]
    distill = {"quantize.rtn": replace(done.plan.edits[0], method="distill", places=(), config={"steps": 10, "batch": 8})}
    longer = replace(done.plan, edits=(*done.plan.edits, *distill.values()))
    assert seconds(plan=longer)["compress"] > plain["compress"]


def test_data_needs_a_copy_of_the_original(done: Any) -> None:
    source = replace(done.plan.source, tensor_bytes=10**9)
    plan = replace(done.plan, source=source)
    without, copied = (estimate_cost(plan, done.original.layout, Workload(calibration=n), 0.0, PACE) for n in (0, 1))
    assert copied.more_memory_bytes - without.more_memory_bytes == 10**9
    assert copied.memory_bytes > copied.more_memory_bytes


def test_memory_is_refused_only_where_it_cannot_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "free_memory_bytes", lambda: 2_000_000_000)
    check_memory_for(1_999_999_999, "it")
    with pytest.raises(InputError, match=r"it needs about 3\.0 GB of memory, but only 2\.0 GB are free; .*--ignore-limits"):
        check_memory_for(3_000_000_000, "it")
    monkeypatch.setattr(cost, "free_memory_bytes", lambda: None)
    check_memory_for(1 << 60, "it")


def test_verbs_estimate_refuse_and_go_on_when_told_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, data = write_miniature("bert", tmp_path / "model"), write_miniature_data(tmp_path / "data", 20, ("text",))
    planned = pipeline.plan(model, "int8", data)
    assert planned.estimate is not None and planned.estimate.total_seconds > 0 and planned.estimate.disk_bytes > 0
    monkeypatch.setattr(cost, "free_memory_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"reading .*model needs about .* GB of memory"):
        pipeline.compress(model, "int8", data, tmp_path / "out")
    monkeypatch.setattr(cost, "free_memory_bytes", lambda: 100_000_000)
    with pytest.raises(InputError, match="compressing model needs about"):
        pipeline.compress(model, "int8", data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    told: list[tuple[str, int, int]] = []
    plans: list[Any] = []
    pipeline.compress(
        model, "int8", data, tmp_path / "out", ignore_limits=True, progress=lambda *at: told.append(at), on_plan=plans.append
    )
    assert plans[0].estimate is not None
    done = [number for _, number, total in told if total == 1000]
    assert len(done) == len(told) and done == sorted(done) and done[-1] == 1000
    assert {"save", "reload in a fresh process", "verify"} <= {what for what, _, _ in told}

"""Times in turn: which samples count, what noise is, and which differences are shown. No clock is trusted here."""

from __future__ import annotations

import itertools

import pytest

from trimodal.benching import timing
from trimodal.benching.conditions import Conditions, ForeignLoad, read_conditions
from trimodal.benching.timing import Sample, Timing, Timings, measure_noise, summarise_samples, time_in_turn

ONE = Conditions("a processor", ("avx2",), cores=2, threads=1, versions={})


def make_timing(seconds: float) -> Timing:
    return Timing(seconds, seconds, seconds, (seconds,), False)


def test_samples_beside_other_work_do_not_count() -> None:
    samples = [Sample(1.0, 0.1), Sample(9.0, 1.9), Sample(2.0, 0.0), Sample(3.0, None)]
    found = summarise_samples(samples, limit=1.25)
    assert (found.median, found.noisy) == (2.0, False)
    assert found.samples == (1.0, 2.0, 3.0)
    assert (found.low, found.high) == (1.5, 2.5)


def test_too_few_clean_samples_are_said() -> None:
    found = summarise_samples([Sample(1.0, 0.0), Sample(2.0, 2.0), Sample(3.0, 2.0)], limit=1.25)
    assert (found.median, found.noisy, len(found.samples)) == (2.0, True, 3)
    assert summarise_samples([Sample(1.0, 0.0)], limit=1.25) == Timing(1.0, 1.0, 1.0, (1.0,), False)


def test_noise_is_the_larger_of_difference_and_spread() -> None:
    ones = [Sample(s, None) for s in (1.0, 1.0, 1.0, 1.0)]
    apart = [Sample(s, None) for s in (1.1, 1.1, 1.1, 1.1)]
    assert measure_noise(ones, apart, make_timing(1.0), make_timing(1.1)) == pytest.approx(1 - 1 / 1.1)
    spread = [Sample(s, None) for s in (0.5, 1.0, 1.0, 2.0)]  # ratios 2, 1, 1, 0.5: quartiles 0.875 and 1.25
    assert measure_noise(ones, spread, make_timing(1.0), make_timing(1.0)) == pytest.approx(0.375 / 2)


@pytest.mark.parametrize(("ratio", "shown"), [(1.0, False), (1.09, False), (1.11, True), (1 / 1.09, False), (1 / 1.11, True)])
def test_what_is_below_twice_the_noise_is_not_told_apart(ratio: float, shown: bool) -> None:
    assert Timings({}, noise=0.05).is_told_apart(ratio) is shown


def test_calls_come_in_turn_and_the_first_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(timing.time, "process_time", lambda: next(ticks) / 4)  # every call takes a quarter of a second: one per block
    seen: list[str] = []
    found = time_in_turn({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, ONE, rounds=2)
    assert "".join(seen) == "aabb" + "aabbaa" + "aabbaa"  # prepared, then a, b, a again, each warm and timed; then backwards
    assert set(found.by_name) == {"a", "b"}
    assert found.by_name["a"].samples == (0.25, 0.25)
    assert found.ratio_of("b", "a") == 1.0
    assert found.noise == 0.0


def test_a_long_call_warms_itself_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(timing.time, "process_time", lambda: float(next(ticks)))
    seen: list[str] = []
    found = time_in_turn({"a": lambda: seen.append("a")}, ONE, rounds=1)
    assert len(seen) == 2 + 2
    assert found.by_name["a"].samples == (1.0,)


def test_conditions_are_those_of_a_machine() -> None:
    here = read_conditions(2)
    assert here.is_same_machine(Conditions.from_json(here.to_json()))
    assert not here.is_same_machine(read_conditions(1))
    assert ONE.describe() == "a processor: avx2; 2 cores, 1 thread"
    assert not ONE.has_integer_products
    assert Conditions("", ("avx2", "avx_vnni"), 2, 1, {}).has_integer_products
    load = ForeignLoad().stop()
    assert load is None or load >= 0

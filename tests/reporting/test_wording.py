"""Numbers as a person reads them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trimodal.core import Edit, Metric, Plan, StockLoad, Verdict
from trimodal.core.record import Unit
from trimodal.reporting import wording


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (950, "950 bytes"), (1_500, "1.50 kB"), (999_900, "1.00 MB"), (14_208_072, "14.2 MB"),
     (605_109_252, "605 MB"), (1_560_000_000, "1.56 GB"), (-3_340_000, "−3.34 MB")],
)  # fmt: skip
def test_sizes(count: int, shown: str) -> None:
    assert wording.format_bytes(count) == shown


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [(10, 1, "10.0× smaller"), (1, 2, "2.0× larger"), (5, 5, "as large as before"), (0, 5, "larger"),
     (1000, 999, "1.001× smaller"), (1_000_000, 1, "1,000,000× smaller")],
)  # fmt: skip
def test_ratios(before: int, after: int, shown: str) -> None:
    assert wording.format_ratio(before, after) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.41, "0.4 s"), (74.2, "74 s"), (185, "3 min 5 s"), (7320, "2 h 2 min")])
def test_seconds(value: float, shown: str) -> None:
    assert wording.format_seconds(value) == shown


def metric(unit: Unit, before: float, after: float, low: float, high: float) -> Metric:
    return Metric("m", "all", unit, 100, before, after, before - after, low, high)


def test_cosines_keep_the_digits_that_matter() -> None:
    coarse, fine = metric("cosine", 1, 0.98, 0.01, 0.03), metric("cosine", 1, 0.999_95, 0.000_04, 0.000_06)
    assert (wording.format_score(coarse, coarse.after), wording.format_interval(coarse)) == ("0.9800", "[0.0100, 0.0300]")
    assert wording.format_score(fine, fine.after) == "0.999950"


def test_changes_have_words_and_no_negative_zero() -> None:
    assert wording.describe_change(metric("percent", 96, 97, -2, 0)) == "gain 1.0 points"
    assert wording.describe_change(metric("percent", 96, 96.01, -0.5, 0.5)) == "no drop"
    assert wording.format_interval(metric("percent", 96, 96, -0.04, 0.5)) == "[0.0, 0.5]"
    assert wording.format_interval(metric("percent", 96, 96, -0.04, 0.05)) == "[−0.04, 0.05]"


def test_a_change_stands_with_its_own_interval() -> None:
    """Faults 1.11: the gain had the interval of the drop."""
    assert wording.describe_metric_cost(metric("percent", 90, 90.6, -1.3, 0.2)) == "gain 0.6 points [−0.2, 1.3], n = 100"
    assert wording.describe_metric_cost(metric("percent", 90.6, 90, -0.2, 1.3)) == "drop 0.6 points [−0.2, 1.3], n = 100"
    assert wording.describe_metric_cost(metric("cosine", 1, 0.98, 0.01, 0.03)) == "drop 0.0200 [0.0100, 0.0300], n = 100"
    same = replace(metric("percent", 90, 90, -2.95, 2.95), interval="bound")
    assert wording.describe_metric_cost(same) == "not one sample changed, drop at most 3.0 points, n = 100"
    few = replace(same, drop_low=None, drop_high=None, samples=7, interval="too few")
    assert wording.describe_metric_cost(few) == "no drop, n = 7: no interval" and wording.format_interval(few) == "n = 7: no interval"


def test_shares() -> None:
    shown = [wording.format_share(part, 1000) for part in (0, 0.4, 4, 96, 850, 1000)]
    assert shown == ["0 %", "under 0.1 %", "0.4 %", "9.6 %", "85 %", "100 %"]


def test_settings_in_words() -> None:
    assert wording.describe_setting("sparsity", 0.5) == "50 % removed"
    assert wording.describe_setting("group", "channel") == "one scale per channel"
    assert wording.describe_setting("steps", 1000, "steps") == "1,000 steps"
    assert wording.describe_setting("batch", 64, "samples") == "batch 64 samples"
    assert wording.describe_setting("learning_rate", 5e-4) == "learning rate 0.0005"
    assert wording.describe_setting("activation_order", True) == "activation order: yes"


def test_the_headline_of_a_model_that_grew(verdict: Verdict) -> None:
    size = verdict.size
    grown = replace(verdict, size=replace(size, after_bytes=2 * size.before_bytes), metrics=())
    assert wording.make_headline(grown) == "2.0× larger (14.2 MB → 28.5 MB); accuracy was not measured."


def test_zeros_and_packed_layers_are_not_sold_as_speed(plan: Plan) -> None:
    places = plan.edits[0].places

    def told(*methods: str) -> str:
        return wording.describe_speed(replace(plan, edits=tuple(Edit(method, ("*",), {}, places) for method in methods)))

    assert told("prune.neurons", "factorize.eigen") == ""
    assert "zeros" not in told("prune.heads", "quantize.gptq")
    assert "unpacked at every call" in told("quantize.gptq")
    assert "zeros of single weights make no CPU faster" in told("prune.neurons", "prune.wanda")
    assert wording.describe_speed(replace(plan, edits=(Edit("quantize.rtn", ("*",), {}, ()),))) == ""


def test_how_a_folder_is_loaded_that_stock_transformers_cannot_read() -> None:
    integers = StockLoad(False, "weights are not plain tensors (integers)")
    assert wording.describe_stock(integers).endswith("; import trimodal first, or use trimodal.load")
    assert wording.describe_stock(StockLoad(False, "its weights are entropy-coded")).endswith("coded; use trimodal.load")
    assert wording.describe_stock(StockLoad(True)).endswith("yes")


def test_a_narrow_interval_is_not_rounded_away() -> None:
    bound = Metric("text accuracy", "text", "percent", 2000, 100.0, 100.0, 0.0, -0.1497, 0.1497, "", interval="bound")
    assert wording.format_interval(bound) == "[\u22120.15, 0.15]"


def test_packed_layers_are_not_said_to_be_slower_than_an_original_that_was_cut(plan: Plan) -> None:
    packed = replace(plan, edits=tuple(Edit("quantize.rtn", ("*",), {}, edit.places) for edit in plan.edits))
    assert "unpacked at every call" in wording.describe_speed(packed) and "than the original" not in wording.describe_speed(packed)

"""How evenly tokens came to experts."""

from __future__ import annotations

from math import log

import pytest

from trimodal.core import PlaceRecord
from trimodal.reporting.routing import make_routing_rows, measure_balance


def record_of(place: str, experts: tuple[int, ...]) -> PlaceRecord:
    return PlaceRecord(0, "quantize.gptq", place, "text", 0, 8, 4, {}, 0.1, {}, 0.0, experts=experts)


def test_a_layer_is_one_row_whatever_matrices_it_has() -> None:
    up, down = (record_of(f"text.0.{name}.experts", (30, 0, 60, 10)) for name in ("gate_up_proj", "down_proj"))
    (row,) = make_routing_rows([record_of("text.0.query", ()), up, down])
    assert (row.layer, row.experts, row.choices, row.least, row.most, row.idle) == ("text.0", 4, 100, "0.0%", "60.0%", "1")
    assert row.bars == (50.0, 0.0, 100.0, 16.7)


@pytest.mark.parametrize(("counts", "balance"), [((5, 5, 5, 5), 1.0), ((9, 0, 0, 0), 0.0), ((8, 8, 0, 0), log(2) / log(4)), ((7,), 1.0)])
def test_balance_is_the_entropy_over_that_of_equal_shares(counts: tuple[int, ...], balance: float) -> None:
    assert measure_balance(counts) == pytest.approx(balance)


def test_experts_that_nothing_was_counted_for_have_no_row() -> None:
    assert make_routing_rows([record_of("text.0.down_proj.experts", (0, 0))]) == []

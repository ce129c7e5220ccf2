"""What routers of mixtures of experts did with the calibration tokens: how many came to each expert, and how evenly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trimodal.core import PlaceRecord
from trimodal.core.target_fit import name_briefly

_NAMED = 8


@dataclass(frozen=True)
class RoutingRow:
    """One layer of experts. `balance` is the entropy of the shares over that of equal ones: 1 where all experts get as much, 0 where
    one gets all. `bars` are the experts' tokens in order, in percent of the most; `idle` names those that no token came to."""

    layer: str
    experts: int
    choices: int
    least: str
    most: str
    balance: str
    bars: tuple[float, ...]
    idle: str


def make_routing_rows(places: Sequence[PlaceRecord]) -> list[RoutingRow]:
    """A row for each layer whose experts' tokens were counted, in the order of the records; its matrices are one row."""
    rows: dict[str, RoutingRow] = {}
    for record in places:
        layer = record.place.rsplit(".", 2)[0]
        if sum(record.experts) and layer not in rows:
            rows[layer] = _make_row(layer, record.experts)
    return list(rows.values())


def measure_balance(counts: Sequence[int]) -> float:
    """The entropy of the shares of `counts` over log of their number: from 0 to 1."""
    total = sum(counts)
    shares = [count / total for count in counts if count]
    return -sum(share * math.log(share) for share in shares) / math.log(len(counts)) if len(counts) > 1 else 1.0


def _make_row(layer: str, counts: Sequence[int]) -> RoutingRow:
    total, most = sum(counts), max(counts)
    idle = [str(number) for number, count in enumerate(counts) if not count]
    return RoutingRow(
        layer, len(counts), total, f"{min(counts) / total:.1%}", f"{most / total:.1%}", f"{measure_balance(counts):.2f}",
        tuple(round(100 * count / most, 1) for count in counts), name_briefly(idle, _NAMED) or "none",
    )  # fmt: skip

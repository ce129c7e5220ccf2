"""What a run writes down as it goes, and how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from trimodal.core import FitRecord, PlaceRecord, Plan
from trimodal.methods import get_method

Progress = Callable[[str, int, int], None]


@dataclass
class RunLog:
    """The `records` so far, and whom to tell: `progress` hears what is going on, how much is done, and the `total`."""

    progress: Progress
    total: int
    records: list[PlaceRecord | FitRecord] = field(default_factory=list)

    def report(self, what: str, ahead: int = 0) -> None:
        """Say what is going on; `ahead` steps are done of which there is no record yet."""
        self.progress(what, min(self.total, len(self.records) + ahead), self.total)


def count_steps(plan: Plan) -> int:
    """How many records a run of `plan` writes: one per place, and one per step of what trains."""
    trained = (edit for edit in plan.edits if get_method(edit.method).trains)
    return sum(len(edit.places) for edit in plan.edits) + sum(int(edit.config.get("steps", 0)) for edit in trained)

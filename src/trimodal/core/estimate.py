"""What a run is expected to take on this machine, before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """What lies ahead once the model is loaded and the plan is made.

    `seconds` are per stage, in order. `memory_bytes` is what this process will hold at most, with the process that reloads
    the result; `more_memory_bytes` the part of it that is not taken yet. `disk_bytes` is what is written. All are estimates:
    seconds within a factor of three, memory within one and a half. None of it is kept in a file: it belongs to the machine and the hour.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int = 0
    more_memory_bytes: int = 0
    disk_bytes: int = 0

    @property
    def total_seconds(self) -> float:
        """All stages together."""
        return sum(self.seconds.values())

    def to_json(self) -> dict[str, Any]:
        """Plain data, rounded to what an estimate is worth."""
        return {
            "seconds": {name: float(f"{value:.2g}") for name, value in self.seconds.items()},
            "memory_bytes": self.memory_bytes, "more_memory_bytes": self.more_memory_bytes, "disk_bytes": self.disk_bytes,
        }  # fmt: skip

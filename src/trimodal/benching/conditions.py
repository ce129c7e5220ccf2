"""What a measurement depends on: processor, its instructions, versions; and how busy the machine is with other work."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimodal.machine import detect_processor, version_of

PACKAGES = ("trimodal", "torch", "transformers", "onnxruntime", "openvino")
INTEGER_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Instructions that multiply 8-bit integers and add up in 32 bits; without one, 8 bits gain little or lose accuracy."""
_STATUS = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, interrupts, soft interrupts, stolen


@dataclass(frozen=True)
class Conditions:
    """A machine as measurements know it. `instructions` are those that matter here."""

    processor: str
    instructions: tuple[str, ...]
    cores: int
    threads: int
    versions: dict[str, str]

    @property
    def has_integer_products(self) -> bool:
        """Whether it has instructions for products of 8-bit integers."""
        return bool(set(self.instructions) & set(INTEGER_PRODUCTS))

    def is_same_machine(self, other: Conditions) -> bool:
        """Whether what was measured under `other` holds here: all but the number of cores, which are shared with others."""
        return (self.processor, self.instructions, self.threads, self.versions) == (
            other.processor, other.instructions, other.threads, other.versions,
        )  # fmt: skip

    def describe(self) -> str:
        """One line: processor, instructions, cores and threads."""
        known = " ".join(self.instructions) or "no vector instructions known"
        return f"{self.processor}: {known}; {self.cores} cores, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @staticmethod
    def from_json(said: dict[str, Any]) -> Conditions:
        """What `to_json` wrote."""
        return Conditions(**{**said, "instructions": tuple(said["instructions"])})


def read_conditions(threads: int) -> Conditions:
    """Those of this machine and these packages."""
    processor, instructions = detect_processor()
    versions = {name: found for name in PACKAGES if (found := version_of(name)) != "not installed"}
    return Conditions(processor, instructions, os.cpu_count() or 1, threads, versions)


class ForeignLoad:
    """How many cores other processes kept busy since the watch was started. Nothing where the system does not tell."""

    def __init__(self) -> None:
        self._wall, self._busy, self._own = time.perf_counter(), _read_busy_seconds(), _read_own_seconds()

    def stop(self) -> float | None:
        """Cores busy with other work, on average."""
        wall, busy, own = time.perf_counter() - self._wall, _read_busy_seconds(), _read_own_seconds() - self._own
        if busy is None or self._busy is None or wall <= 0:
            return None
        return max(0.0, (busy - self._busy - own) / wall)


def _read_own_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _read_busy_seconds() -> float | None:
    try:
        first = _STATUS.read_text(encoding="ascii").partition("\n")[0].split()[1:]
    except OSError:
        return None
    return sum(int(first[place]) for place in _BUSY if place < len(first)) / os.sysconf("SC_CLK_TCK")

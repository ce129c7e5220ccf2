"""How many connections each worker has, where all of them can see it, so that none takes what another has more room for.

Connections stay open and carry many requests. Whoever happened to be awake when a client opened sixteen of them would answer all, and
the other workers none.
"""

from __future__ import annotations

import mmap

_BYTES, _ABSENT = 4, -1


class Shares:
    """A number per slot, in memory that a fork shares: connections, or that nobody accepts there."""

    def __init__(self, slots: int) -> None:
        self._numbers = memoryview(mmap.mmap(-1, max(slots, 1) * _BYTES)).cast("i")
        for slot in range(len(self._numbers)):
            self._numbers[slot] = _ABSENT

    def tell(self, slot: int, connections: int | None) -> None:
        """The worker in `slot` has so many; None where it takes no more."""
        if slot < len(self._numbers):
            self._numbers[slot] = _ABSENT if connections is None else connections

    def has_fewer(self, slot: int, connections: int) -> bool:
        """Whether some other worker that accepts has fewer than so many."""
        return any(_ABSENT < number < connections for other, number in enumerate(self._numbers) if other != slot)

"""Sets of nodes that turn out to be one: union and find over arrays, with a reason for each set that cannot be cut."""

from __future__ import annotations

from typing import Any

import numpy as np

Nodes = np.ndarray[Any, np.dtype[np.int64]]


class DisjointSets:
    """Which nodes have been united, and why some sets cannot be cut."""

    def __init__(self) -> None:
        self._parent: Nodes = np.arange(1024)
        self._count = 0
        self.reasons: dict[int, str] = {}

    def add_nodes(self, count: int) -> Nodes:
        """So many new nodes."""
        while self._count + count > len(self._parent):
            self._parent = np.concatenate((self._parent, np.arange(len(self._parent), 2 * len(self._parent))))
        self._count += count
        return np.arange(self._count - count, self._count)

    def find_roots(self, nodes: Nodes) -> Nodes:
        """The node that stands for the set of each."""
        found = self._parent[nodes]
        while not np.array_equal(up := self._parent[found], found):
            found = up
        self._parent[nodes] = found
        return found

    def unite_nodes(self, left: Nodes, right: Nodes) -> None:
        """Entry by entry both are the same from now on."""
        pairs = np.sort(np.stack((self.find_roots(left), self.find_roots(right))), axis=0)
        pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
        if len(np.unique(pairs)) == pairs.size:  # no set meets two others: all at once
            self._parent[pairs[1]] = pairs[0]
            for second in self.reasons.keys() & set(pairs[1].tolist()):
                self.reasons.setdefault(self._find_root(second), self.reasons[second])
            return
        for one, other in pairs.T:
            first, second = sorted((self._find_root(int(one)), self._find_root(int(other))))
            self._parent[second] = first
            if first != second and second in self.reasons:
                self.reasons.setdefault(first, self.reasons[second])

    def _find_root(self, node: int) -> int:
        while (up := int(self._parent[node])) != node:
            node = up
        return node

    def mark_uncuttable(self, nodes: Nodes, reason: str) -> None:
        """None of these can be cut."""
        for root in np.unique(self.find_roots(nodes)):
            self.reasons.setdefault(int(root), reason)

"""Which samples go into which step: said for the whole run beforehand, so that a resumed run goes on with the very same ones."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import torch


def order_samples(kinds: Sequence[Hashable], steps: int, batch: int, seed: int) -> list[int]:
    """Indices of the samples of all steps, (steps · batch,), step after step.

    Rounds through all samples, each in a new order. Samples of different `kinds`, such as those that lack a modality, never share a
    step; each kind has steps by its share of the samples.
    """
    generator = torch.Generator().manual_seed(seed)
    groups: dict[Hashable, list[int]] = {}
    for index, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(index)
    streams = [_shuffle_without_end(members, generator) for members in groups.values()]
    shares = torch.tensor([len(members) for members in groups.values()], dtype=torch.float64)
    chosen = [0] * steps
    if len(streams) > 1:
        chosen = torch.multinomial(shares, steps, replacement=True, generator=generator).tolist()
    return [next(streams[which]) for which in chosen for _ in range(batch)]


def _shuffle_without_end(members: Sequence[int], generator: torch.Generator) -> Iterator[int]:
    while True:
        for at in torch.randperm(len(members), generator=generator).tolist():
            yield members[at]

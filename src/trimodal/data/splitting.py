"""Which samples calibrate, which verify, and which are chosen."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from trimodal.core import Sample


def split_calibration_and_held_out(samples: Sequence[Sample], seed: int, held_out: float = 0.2) -> tuple[list[Sample], list[Sample]]:
    """Part `samples` into those to calibrate with and those to verify with, each in file order.

    Lines that say `train` calibrate and lines that say `test` verify. Where no line has a split, a seeded
    `held_out` fraction of the lines verifies, by whole groups; lines without a group that show the very same
    image, audio and text, or inputs, count as one group.
    """
    if any(sample.split for sample in samples):
        return [s for s in samples if s.split != "test"], [s for s in samples if s.split == "test"]
    sizes: dict[object, int] = {}
    for sample in samples:
        sizes[_group_key_of(sample)] = sizes.get(_group_key_of(sample), 0) + 1
    verifying = _choose_held_out_groups(sizes, seed, held_out * len(samples))
    return (
        [s for s in samples if _group_key_of(s) not in verifying],
        [s for s in samples if _group_key_of(s) in verifying],
    )


def _group_key_of(sample: Sample) -> object:
    if sample.group is not None:
        return sample.group
    return (sample.image, sample.audio, sample.text, sample.inputs, *sorted(sample.signals.items(), key=lambda pair: pair[0]))


def _choose_held_out_groups(sizes: Mapping[object, int], seed: int, wanted: float) -> set[object]:
    """Groups in seeded order as long as they fit into `wanted` lines; at least one if there are two."""
    if len(sizes) < 2:
        return set()
    order = random.Random(seed).sample(list(sizes), len(sizes))
    taken: set[object] = set()
    lines = 0
    for group in order:
        if lines + sizes[group] <= wanted:
            taken.add(group)
            lines += sizes[group]
    return taken or {min(order, key=lambda group: sizes[group])}


def choose_samples(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """A seeded choice of `count` samples in file order; all of them where there are no more."""
    if count >= len(samples):
        return list(samples)
    kept = random.Random(seed).sample(range(len(samples)), count)
    return [samples[index] for index in sorted(kept)]

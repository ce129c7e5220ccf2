"""One choice of held-out samples for training and compression: what a verdict is measured on was never trained with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from trimodal.core import Sample
from trimodal.data import Data, open_data, read_samples, split_calibration_and_held_out
from trimodal.data.source_kind import SampleSource


@dataclass(frozen=True)
class SplitSource:
    """The samples of a `source`, each with the split that training gave it."""

    source: SampleSource
    samples: tuple[Sample, ...]

    @property
    def name(self) -> str:
        """What errors call the whole."""
        return self.source.name

    @property
    def origin(self) -> str:
        """What errors say before a sample's number."""
        return self.source.origin

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def split_as_trained(data: Data, map: dict[str, str | None], seed: int, share: float) -> Data:
    """`data` with the samples marked that a training with this `seed` holds out by this `share`."""
    source = open_data(data, map=map or None)
    samples = read_samples(source)
    if any(sample.split for sample in samples):
        return source
    _, held_out = split_calibration_and_held_out(samples, seed, share)
    apart = {id(sample) for sample in held_out}
    return SplitSource(source, tuple(replace(s, split="test" if id(s) in apart else "train") for s in samples))

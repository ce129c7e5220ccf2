"""Batches that are encoded when they are asked for, and the one place that says how large they are.

Calibration, verification and training each have their `BatchLimits`: so many samples, and so many tokens at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from trimodal.core import Sample
from trimodal.data.sample_encoding import encode_samples
from trimodal.errors import DataError
from trimodal.models.model import Batch, Model

TOKENS_AT_ONCE = 8192
"""The most tokens (samples × the longest row) that go through a model at once."""
KEPT_BYTES = 2**26
CALIBRATION_BYTES = 2**30


@dataclass(frozen=True)
class BatchLimits:
    """How large a batch may be: `samples`, and `tokens`, samples × the longest row of them; one sample always may be."""

    samples: int
    tokens: int = TOKENS_AT_ONCE

    def rows_at_once(self, longest: int) -> int:
        """How many samples of `longest` tokens each may go together, from 1 to `samples`."""
        return max(1, min(self.samples, self.tokens // max(1, longest)))


CALIBRATION = BatchLimits(32, TOKENS_AT_ONCE // 4)
"""Products are no faster beyond that, and what layers give to each other, which is kept for all batches, stays small."""
VERIFICATION = BatchLimits(64)


def count_tokens(model: Model, batch: Batch) -> int:
    """The longest row that the family speaks of in `batch`, in tokens; 0 where it speaks of none."""
    return max((codes.shape[1] for codes in model.family.tokens(model.module, batch).values() if codes.dim() == 2), default=0)


def count_ids(batch: Batch) -> int:
    """The longest row of whole numbers (batch, tokens) in `batch`, such as token ids; 1 where there is none."""
    rows = (value.shape[1] for value in batch.values() if value.dim() == 2 and not value.is_floating_point())
    return max(rows, default=1)


def fit_batch_size(model: Model, batches: Sequence[Batch], limits: BatchLimits) -> int:
    """How many samples fit into each batch if the longest row of all `batches` is to be within `limits`; goes through all."""
    return limits.rows_at_once(max((count_tokens(model, batch) for batch in batches), default=0))


def part_batch(model: Model, batch: Batch, rows: int, limits: BatchLimits) -> list[tuple[slice, Batch]]:
    """`batch` of `rows` samples in parts within `limits`, in order, each with the rows that it has; whole where it is within
    them, or cannot be parted by samples."""
    at_once = limits.rows_at_once(count_tokens(model, batch) or count_ids(batch))
    if at_once >= rows or any(value.dim() == 0 or len(value) != rows for value in batch.values()):
        return [(slice(0, rows), batch)]
    parts = [slice(start, min(start + at_once, rows)) for start in range(0, rows, at_once)]
    return [(part, {name: value[part] for name, value in batch.items()}) for part in parts]


def group_by_modality(model: Model, samples: Sequence[Sample], size: int) -> list[list[int]]:
    """Indices into `samples`, at most `size` at a time, with the same modalities out of those `model` takes, and inputs of one shape.

    File order holds within a set of modalities; sets come in the order of their first line.

    Raises:
        DataError: `size` is less than 1.
    """
    if size < 1:
        raise DataError(f"batch size is {size}; expected at least 1")
    sets: dict[object, list[int]] = {}
    takes = frozenset(model.modalities)
    for index, sample in enumerate(samples):
        shapes = None if sample.inputs is None else sample.inputs.shapes
        sets.setdefault((sample.modalities & takes, shapes), []).append(index)
    return [alike[start : start + size] for alike in sets.values() for start in range(0, len(alike), size)]


class Batches(Sequence[Batch]):
    """Batches of at most `size` samples, as `group_by_modality` orders them: `rows` has the indices of each.

    A batch is read and encoded when it is asked for; one can go through them as often as one likes. The first ones stay
    as long as all that stays takes `kept_bytes`, beyond that only the last one that was asked for.
    """

    def __init__(self, model: Model, samples: Sequence[Sample], size: int, kept_bytes: int = KEPT_BYTES) -> None:
        self.rows = group_by_modality(model, samples, size)
        self._model, self._samples = model, samples
        self._room = kept_bytes
        self._kept: dict[int, Batch] = {}
        self._last: tuple[int, Batch] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...

    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        """One batch, or those of a slice, which are encoded when they are asked for in turn."""
        if isinstance(index, slice):
            return _BatchSlice(self, range(len(self))[index])
        number = range(len(self))[index]
        if number in self._kept:
            return self._kept[number]
        if self._last is None or self._last[0] != number:
            self._last = None  # it may go before the next one is made
            self._last = number, encode_samples(self._model, [self._samples[row] for row in self.rows[number]])
            self._keep(*self._last)
        return self._last[1]

    def _keep(self, number: int, batch: Batch) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in batch.values())
        if size <= self._room:
            self._room -= size
            self._kept[number] = batch


class _BatchSlice(Sequence[Batch]):
    """Some of the batches, by their numbers."""

    def __init__(self, batches: Batches, numbers: range) -> None:
        self._batches, self._numbers = batches, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...

    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        """One batch, or those of a slice."""
        if isinstance(index, slice):
            return _BatchSlice(self._batches, self._numbers[index])
        return self._batches[self._numbers[index]]


def batch_samples(model: Model, samples: Sequence[Sample], size: int, *, kept_bytes: int = KEPT_BYTES) -> Batches:
    """Batches of at most `size` samples with the same modalities, encoded when they are asked for.

    Args:
        model: what is given them; they lie on its module's device.
        samples: what is in them.
        size: samples per batch, at most.
        kept_bytes: how much of them may stay in memory.

    Raises:
        DataError: `size` is less than 1; while they are gone through, a sample cannot be read or encoded.
    """
    return Batches(model, samples, size, kept_bytes)

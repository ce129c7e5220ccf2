"""Edits that train: they stand by themselves, and each further one sees the data in another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trimodal.compression.progress import RunLog
from trimodal.core import Edit, FitRecord, Sample
from trimodal.data import batch_samples as make_batches
from trimodal.errors import TrimodalError
from trimodal.methods import get_method
from trimodal.methods.method import Adaptation, AdaptedPlace
from trimodal.methods.options import build_config
from trimodal.models.model import Batch, Model


@dataclass
class Trainer:
    """Trains `model` towards `teacher` on `samples`; edits with one batch size use the same batches."""

    model: Model
    teacher: Model | None
    samples: Sequence[Sample]
    seed: int
    log: RunLog
    _batches: tuple[int, Sequence[Batch]] | None = field(default=None, init=False)

    def train_edit_(self, number: int, edit: Edit, trainings: int) -> list[FitRecord]:
        """Carry out edit `number` on the model, before which so many `trainings` stand in the plan; a record per step.

        Raises:
            TrimodalError: there is no teacher.
        """
        used, teacher = get_method(edit.method), self._require_teacher(number, edit)
        assert used.fit is not None  # the edit trains the whole model
        config = build_config(used.config, edit.config, edit.method)
        self.log.report(edit.method)
        found = used.fit(self.model, teacher, self._give_data(edit.method), config, self._seed_of(trainings))
        return [replace(record, edit=number) for record in found]

    def adapt_places_(self, number: int, edit: Edit, places: Sequence[AdaptedPlace], trainings: int) -> Adaptation:
        """Train edit `number` at its `places`, after so many `trainings`, and say what became of each.

        Raises:
            TrimodalError: there is no teacher.
        """
        used, teacher = get_method(edit.method), self._require_teacher(number, edit)
        assert used.adapt is not None  # the edit adapts
        config = build_config(used.config, edit.config, edit.method)
        found = used.adapt.train(self.model, teacher, places, self._give_data(edit.method), config, self._seed_of(trainings))
        return replace(found, records=[replace(record, edit=number) for record in found.records])

    def _require_teacher(self, number: int, edit: Edit) -> Model:
        if self.teacher is None:
            raise TrimodalError(f"step {number + 1} ({edit.method}) was given no original model to learn from")
        return self.teacher

    def _seed_of(self, trainings: int) -> int:
        """The seed of the training that comes after so many."""
        return (self.seed + trainings) % 2**63

    def _give_data(self, what: str) -> Callable[[int], Sequence[Batch]]:
        """A function from the size of a batch to all of them."""
        return lambda size: self._make_counted_batches(size, what)

    def _make_counted_batches(self, size: int, what: str) -> Sequence[Batch]:
        if self._batches is None or self._batches[0] != size:
            self._batches = size, make_batches(self.model, self.samples, size)
        return _CountedBatches(self._batches[1], lambda step: self.log.report(f"{what}, step {step}", ahead=step))


class _CountedBatches(Sequence[Batch]):
    """Batches that tell how many were taken, which is how far a training is."""

    def __init__(self, batches: Sequence[Batch], tell: Callable[[int], None]) -> None:
        self._batches, self._tell, self._taken = batches, tell, 0

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        self._taken += 1
        self._tell(self._taken)
        return self._batches[index]

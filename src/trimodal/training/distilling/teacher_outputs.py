"""What the teacher says of each sample: asked once and kept on disk, or asked whenever it is needed.

    FOLDER/FINGERPRINT/about.json                    what it is made of
    FOLDER/FINGERPRINT/outputs-00000.safetensors     samples 0 to n − 1: the rows of all under each name, and NAME# how many each has

The fingerprint is over the teacher's weights and processors, the samples' content, and what is stored how. A folder of another one is
never read, so nothing has to be thrown away when something changes. A part is there whole or not at all; after a kill the rest is made.
Parts are mapped into memory: only what a step needs is read.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from trimodal.core import Sample
from trimodal.data import group_by_modality
from trimodal.errors import InputError, OutputError
from trimodal.models.foreign import run_forward
from trimodal.progress import Progress, ignore_progress, tell_nobody
from trimodal.training.distilling.attention_states import record_outputs
from trimodal.training.distilling.settings import StoredType
from trimodal.training.distilling.states import Rows, StateReader
from trimodal.training.distilling.top_scores import keep_top_scores
from trimodal.training.objective import LABELS, Drawn
from trimodal.training.settings import is_main_process
from trimodal.writing.file import open_atomic_file

AT_ONCE = 16  # samples that go through the teacher together; part of the fingerprint, as sums may be rounded otherwise in other company
_PART_BYTES = 2**26
_PROBE = 2
_WAIT_SECONDS = 0.2
_TYPES = {"fp16": torch.float16, "fp32": torch.float32}
States = dict[str, Tensor]


@dataclass(frozen=True)
class Teacher:
    """Reads states of samples: `encode` makes a batch, with labels where the task has some; `top` scores of each row are kept, 0 for all,
    as they are at `temperature`."""

    reader: StateReader
    encode: Callable[[Sequence[Drawn]], dict[str, Tensor]]
    top: int = 0
    temperature: float = 1.0

    @torch.no_grad()
    def read_states(self, samples: Sequence[Sample]) -> list[States]:
        """The states (rows, width) of each sample by name; samples that lack a modality may have fewer."""
        module = self.reader.model.module.eval()
        found: list[States] = [{} for _ in samples]
        for rows in group_by_modality(self.reader.model, samples, AT_ONCE):
            batch = self.encode([(row, samples[row]) for row in rows])
            with record_outputs(module, self.reader.list_paths()) as seen:
                result = run_forward(module, {name: value for name, value in batch.items() if name != LABELS})
            for name, values in self.reader.collect_states(batch, result, seen).items():
                for row, own in zip(rows, values.split(), strict=True):
                    found[row] |= self._shorten(name, own.cpu())
        return found

    def _shorten(self, name: str, rows: Tensor) -> States:
        if not self.top or not name.startswith("logits."):
            return {name: rows}
        shares, classes = keep_top_scores(rows, self.top, self.temperature)
        return {name: shares, name.replace("logits.", "classes.", 1): classes}


@dataclass
class TeacherOutputs:
    """States of `samples` by number. Without a `folder` the teacher is asked anew each time."""

    teacher: Teacher
    samples: Sequence[Sample]
    folder: Path | None = None
    stored: StoredType = "fp16"
    about: Mapping[str, Any] = field(default_factory=dict)
    _part: int = field(default=0, init=False)
    _filled: bool = field(default=False, init=False)
    _open: dict[int, tuple[Any, dict[str, list[int]]]] = field(default_factory=dict, init=False)

    def fetch(self, numbers: Sequence[int]) -> dict[str, Rows]:
        """The states of the samples with these numbers, as float32; names that one of them lacks are left out."""
        if self._filled:
            states = [self._load(number) for number in numbers]
        else:
            states = self.teacher.read_states([self.samples[number] for number in numbers])
        names = [name for name in states[0] if all(name in one for one in states)]
        return {name: _join([one[name] for one in states]) for name in names}

    def measure_bytes(self) -> int:
        """About how much all of them will take, from what some samples take."""
        chosen = self.samples[:_PROBE]
        found = sum(_to_stored(value, self.stored).nbytes for states in self.teacher.read_states(chosen) for value in states.values())
        return found * len(self.samples) // max(1, len(chosen))

    def fill(self, progress: Progress = ignore_progress, tell: Callable[[str], None] = tell_nobody) -> None:
        """Ask the teacher of all samples, but for what is on disk already; of several processes the first does it.

        Raises:
            OutputError: they do not fit on the disk.
            InputError: a number cannot be kept in half precision.
        """
        if self.folder is None or self._filled:
            return
        size = self.measure_bytes()
        self._part = max(1, _PART_BYTES * len(self.samples) // max(size, 1))
        missing = [number for number in range(self._count_parts()) if not self._path(number).is_file()]
        if not is_main_process():
            while any(not self._path(number).is_file() for number in missing):
                time.sleep(_WAIT_SECONDS)
        elif missing:
            self._make_parts(missing, size, progress, tell)
        else:
            tell(f"the teacher's outputs are there already: {self.folder}")
        self._filled = True

    def _make_parts(self, missing: Sequence[int], size: int, progress: Progress, tell: Callable[[str], None]) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        share = size * len(missing) // self._count_parts()
        free = shutil.disk_usage(self.folder).free
        tell(f"the teacher's outputs of {len(self.samples):,} samples: about {size / 1e6:,.1f} MB in {self.folder}")
        if share > free:
            raise OutputError(
                f"the teacher's outputs need about {share / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free at {self.folder}; give another "
                "distill.cache, fewer terms, distill.top: 64, or cache: none, which asks the teacher anew in each step"
            )
        (self.folder / "about.json").write_text(json.dumps(dict(self.about), indent=1) + "\n", encoding="utf-8")
        for number in missing:
            progress("teacher's outputs", number * self._part, len(self.samples))
            self._write_part(number)

    def _write_part(self, number: int) -> None:
        samples = self.samples[number * self._part : (number + 1) * self._part]
        states = self.teacher.read_states(samples)
        tensors: States = {}
        for name in dict.fromkeys(name for one in states for name in one):
            rows = [_to_stored(one[name], self.stored) for one in states if name in one]
            tensors[name] = torch.cat(rows).contiguous()
            tensors[f"{name}#"] = torch.tensor([len(one.get(name, ())) for one in states], dtype=torch.int32)
            _check_finite(name, tensors[name])
        with open_atomic_file(self._path(number)) as file:
            file.write(save(tensors))

    def _load(self, number: int) -> States:
        part, at = divmod(number, self._part)
        if part not in self._open:
            self._open[part] = _open_part(self._path(part))
        file, starts = self._open[part]
        spans = {name: (ends[at], ends[at + 1]) for name, ends in starts.items()}
        return {name: file.get_slice(name)[start:end] for name, (start, end) in spans.items() if end > start}

    def _count_parts(self) -> int:
        return -(-len(self.samples) // self._part)

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"outputs-{number:05}.safetensors"


def _open_part(path: Path) -> tuple[Any, dict[str, list[int]]]:
    file: Any = safe_open(str(path), framework="pt")  # type: ignore[no-untyped-call]
    names = [name for name in file.keys() if not name.endswith("#")]  # noqa: SIM118
    return file, {name: [0, *torch.cumsum(file.get_tensor(f"{name}#"), 0).tolist()] for name in names}


def _join(rows: Sequence[Tensor]) -> Rows:
    values = torch.cat(list(rows))
    return Rows(values.float() if values.is_floating_point() else values.long(), torch.tensor([len(own) for own in rows]))


def _to_stored(rows: Tensor, stored: StoredType) -> Tensor:
    return rows.to(_TYPES[stored] if rows.is_floating_point() else torch.int32)


def _check_finite(name: str, rows: Tensor) -> None:
    if rows.is_floating_point() and not bool((rows.isfinite() | rows.isneginf()).all()):
        raise InputError(f"{name} of the teacher has numbers that half precision cannot hold; give distill.stored: fp32")

"""What a plan leaves after each of its stages, as a folder: a run that was killed goes on from the last one.

    STAGES/1-prune/  2-distill/  3-quantize/      each an artifact, complete or absent, with the plan and the record so far

A folder is known by what its own plan says: source, calibration samples, seed and edits. One of another plan is written anew, and so
are all that come after it; the ones before it stay. Every stage begins from what the folder before it holds, killed or not, so both
ways give the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from trimodal.compression.stages import NumberedEdit
from trimodal.core import FitRecord, PlaceRecord, Plan, json_text
from trimodal.core.record import read_record_line
from trimodal.errors import IntegrityError, OutputError
from trimodal.formats import is_artifact, open_atomic_folder, open_model, write_artifact, write_checksums
from trimodal.formats.artifact import RECORD, Factory
from trimodal.formats.side_files import read_plan
from trimodal.methods import get_method
from trimodal.methods.method import MethodKind
from trimodal.models.devices import move_to_device_
from trimodal.models.model import Model, device_of

Records = list[PlaceRecord | FitRecord]
_DECIDING = ("seed", "source", "calibration", "edits", "trimodal")


@dataclass(frozen=True)
class StageFolders:
    """The folders of the stages of `plan` below `root`. `factory` makes the bare module of a model that came from a function."""

    root: Path
    plan: Plan
    factory: Factory | None = None

    def find_last_done(self, stages: Sequence[Sequence[NumberedEdit]]) -> int:
        """How many of the first `stages` are done, each as this very plan says."""
        done = 0
        for number, stage in enumerate(stages):
            if not self._is_done(number, stage):
                break
            done = number + 1
        return done

    def read_(self, model: Model, number: int, stage: Sequence[NumberedEdit]) -> Records:
        """Make of `model`, in place, what stage `number` left; its record, that of earlier stages included.

        Raises:
            IntegrityError: the folder is damaged.
        """
        folder = self.root / name_stage(number, stage)
        found = move_to_device_(open_model(folder, self.factory), str(device_of(model.module)))
        model.module, model.layout, model.steps = found.module, found.layout, found.steps
        if model.folder is not None:
            model.folder = found.folder  # its configuration may say some of the steps
        return _read_records(folder)

    def write(self, model: Model, number: int, stage: Sequence[NumberedEdit], records: Records) -> None:
        """Write what stage `number` left, and take away what other plans left there."""
        folder = self.root / name_stage(number, stage)
        self._remove_others(number, folder)
        factory = self.factory if isinstance(self.factory, str) and model.folder is None else None
        model.module.eval()
        with open_atomic_folder(folder, force=True) as part:
            write_artifact(model, self._plan_until(stage), part, factory)
            (part / RECORD).write_text("".join(json_text(asdict(record)) + "\n" for record in records), encoding="utf-8")
            write_checksums(part)

    def _is_done(self, number: int, stage: Sequence[NumberedEdit]) -> bool:
        folder = self.root / name_stage(number, stage)
        if not is_artifact(folder):
            return False
        expected, found = (_say_what_decides(plan) for plan in (self._plan_until(stage), read_plan(folder)))
        return bool(expected == found)

    def _plan_until(self, stage: Sequence[NumberedEdit]) -> Plan:
        """The plan as far as the end of `stage`."""
        edits = self.plan.edits[: stage[-1][0] + 1]
        saved = sum(place.bytes_before - place.bytes_after for edit in edits for place in edit.places)
        return replace(self.plan, edits=edits, expected_tensor_bytes=self.plan.source.tensor_bytes - saved)

    def _remove_others(self, number: int, folder: Path) -> None:
        """Take away folders that stand for this stage or a later one.

        Raises:
            OutputError: what stands in the stage's place is none of ours.
        """
        if folder.exists() and not is_artifact(folder):
            raise OutputError(f"{folder} is no stage's folder, and is left as it is; give another folder to keep stages in")
        for path in self.root.iterdir() if self.root.is_dir() else ():
            begun, _, kinds = path.name.partition("-")
            ours = begun.isdecimal() and set(kinds.split("+")) <= set(get_args(MethodKind)) and is_artifact(path)
            if ours and int(begun) > number and path != folder:
                shutil.rmtree(path)


def name_stage(number: int, stage: Sequence[NumberedEdit]) -> str:
    """The folder of the stage that has `number`, from 0: `2-distill`, `3-fold+quantize`."""
    kinds = dict.fromkeys(get_method(edit.method).kind for _, edit in stage)
    return f"{number + 1}-{'+'.join(kinds)}"


def _say_what_decides(plan: Plan) -> Any:
    """What of a plan decides the result, as JSON holds it."""
    whole = json.loads(json_text(plan.to_json()))
    return {key: whole.get(key) for key in _DECIDING}


def _read_records(folder: Path) -> Records:
    try:
        lines = [json.loads(line) for line in (folder / RECORD).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{folder / RECORD} cannot be read ({error}); take {folder} away, and the stage is done again") from error
    found = [read_record_line(line, str(folder / RECORD)) for line in lines]
    return [record for record in found if record is not None]

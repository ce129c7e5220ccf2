"""A run with a teacher: the teacher opened and held against the student, its answers and outputs kept, and the objective made of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from trimodal.core import Sample
from trimodal.data import digest_samples, encode_samples
from trimodal.errors import DataError, InputError, OutputError, RecipeError
from trimodal.formats import open_model
from trimodal.models.files import find_companion_files
from trimodal.models.model import Model
from trimodal.progress import Progress, tell_nobody
from trimodal.training.distilling.fitting import (
    check_fit,
    check_vocabularies,
    choose_probe,
    describe_layers,
    make_projections,
    mark_causal,
    plan_states,
    probe_states,
)
from trimodal.training.distilling.imitating import Imitation
from trimodal.training.distilling.settings import DistillSettings
from trimodal.training.distilling.states import StateReader
from trimodal.training.distilling.teacher_outputs import AT_ONCE, Teacher, TeacherOutputs
from trimodal.training.objective import Drawn, Objective
from trimodal.training.settings import count_processes
from trimodal.training.speaking import mark_scored_tokens
from trimodal.training.tasks import make_objective
from trimodal.training_runs.answers import answer_samples
from trimodal.training_runs.config_file import TrainKeys
from trimodal.training_runs.distill_keys import NO_CACHE, DistillKeys

PROJECTIONS = "distill_projections"  # what the learned maps are called among the student's parts while it is trained
_TOKEN_TASKS = ("transcribe", "generate")
_VERSION = 1
_SHOWN = 16


@dataclass(frozen=True)
class Lesson:
    """The samples to learn from and those held out, perhaps with the teacher's answers; the objective; and who the teacher is."""

    train: list[Sample]
    held_out: list[Sample]
    objective: Objective
    outputs: TeacherOutputs
    teacher: Model
    digest: str
    own_folder: Path | None

    def prepare(self, progress: Progress, tell: Callable[[str], None]) -> None:
        """Ask the teacher of all samples, unless it was asked before; where its outputs are kept its weights are let go."""
        self.outputs.fill(progress, tell)
        if self.outputs.folder is not None:
            self.teacher.module.to("meta")

    def clean_up(self, student: nn.Module) -> None:
        """Take the learned maps off the student, and remove outputs that were kept for this run alone."""
        student._modules.pop(PROJECTIONS, None)
        if self.own_folder is not None:
            shutil.rmtree(self.own_folder, ignore_errors=True)

    def describe(self) -> dict[str, Any]:
        """For `training.json`."""
        module = self.teacher.module
        labelled = sum(sample.label is not None or bool(sample.labels) for sample in self.train)
        size = sum(parameter.numel() for parameter in module.parameters())
        return {"class": type(module).__name__, "sha256": self.digest, "parameters": size, "labelled": labelled}


def prepare_lesson(
    keys: TrainKeys, student: Model, train: list[Sample], held_out: list[Sample], part: int, folder: Path, progress: Progress,
    tell: Callable[[str], None] = tell_nobody,
) -> Lesson:  # fmt: skip
    """Everything that a distillation into `student` needs; `folder` is where the teacher's outputs go unless the configuration says
    otherwise.

    Raises:
        InputError: teacher and student do not fit, or the data have nothing to learn from.
    """
    told = keys.distill
    assert told is not None
    teacher = open_teacher(told.teacher, keys.device)
    settings = told.to_settings()
    own = None if told.cache is not None else folder
    place = None if told.cache == NO_CACHE else Path(told.cache or folder)
    digest = digest_model(teacher)
    if told.sequence is not None:
        train, held_out = _answer(told, teacher, digest, train, held_out, place, progress, tell)
    samples = [*train, *held_out]
    base = _make_base(keys, student, samples, part, settings)
    asked = make_objective(keys.task, teacher, samples, part=part) if keys.task in _TOKEN_TASKS else None
    encode = asked.encode if asked is not None else partial(_encode_plain, teacher)
    imitation = _match(keys, settings, (teacher, student), (encode, base), _sort_by_content(samples))
    about = _describe_outputs(teacher, digest, imitation.outputs.samples, imitation.outputs.teacher.reader, settings)
    mark = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:_SHOWN]
    kept = None if place is None else place / mark
    imitation = replace(imitation, outputs=replace(imitation.outputs, folder=kept, about=about))
    if len(imitation.projections):
        student.module.add_module(PROJECTIONS, imitation.projections)
    tell(f"teacher: {type(teacher.module).__name__}, {describe_layers(teacher.layout)}; student: {describe_layers(student.layout)}")
    return Lesson(train, held_out, imitation.to_objective(), imitation.outputs, teacher, digest, own)


def check_not_own_teacher(given: Any, folder: Path) -> None:
    """Refuse to write a student over its teacher.

    Raises:
        OutputError: the output is the teacher's folder.
    """
    if isinstance(given, str | Path) and Path(given).is_dir() and Path(given).resolve() == folder.resolve():
        raise OutputError(f"{folder} is the teacher's own folder; give another output")


def open_teacher(given: Any, device: str) -> Model:
    """The teacher in float32, which nothing trains.

    Raises:
        RecipeError: nobody is named.
        ModelError: it cannot be found or loaded.
    """
    if not isinstance(given, str | Path) and not callable(given):
        raise RecipeError(f"distill.teacher is {given!r:.60}, but must be a folder, a hub id, or package.module:function")
    teacher = open_model(given)
    teacher.module.float().eval().requires_grad_(False)
    if device != "cpu":
        teacher.module.to(device)
    return teacher


def digest_model(model: Model) -> str:
    """sha256 over a model's class and all its tensors."""
    found = hashlib.sha256(type(model.module).__qualname__.encode())
    for name, value in sorted(model.module.state_dict().items()):
        if isinstance(value, Tensor):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _answer(
    told: DistillKeys, teacher: Model, digest: str, train: list[Sample], held_out: list[Sample], place: Path | None, progress: Progress,
    tell: Callable[[str], None],
) -> tuple[list[Sample], list[Sample]]:  # fmt: skip
    """The teacher's answers for all that is learned from, and for what is held out without a target of its own."""
    beams = told.beams if told.sequence == "beam" else 1

    def ask(samples: list[Sample]) -> list[Sample]:
        about = {"teacher": digest, "beams": beams, "longest": told.longest, "samples": digest_samples(samples)}
        about |= _describe_encoding(teacher)
        mark = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:_SHOWN]
        file = None if place is None else place / f"answers-{mark}.json"
        return answer_samples(teacher, samples, beams, told.longest, file, progress, tell)

    own = [sample for sample in held_out if sample.target or (sample.audio is not None and sample.text)]
    without = [sample for sample in held_out if not any(sample is one for one in own)]
    return ask(train), [*own, *(ask(without) if without else [])]


def _make_base(keys: TrainKeys, student: Model, samples: Sequence[Sample], part: int, settings: DistillSettings) -> Objective | None:
    """The task's own objective; None where the data have no labels, and none are asked for."""
    if keys.task == "imitate":
        return None
    try:
        return make_objective(keys.task, student, samples, part=part, hidden=keys.hide, seed=keys.seed)
    except DataError:
        if settings.labels or keys.task != "classify":
            raise
        return None


def _encode_plain(model: Model, drawn: Sequence[Drawn]) -> dict[str, Tensor]:
    return encode_samples(model, [sample for _, sample in drawn])


def _match(
    keys: TrainKeys, settings: DistillSettings, models: tuple[Model, Model],
    encodes: tuple[Callable[..., dict[str, Tensor]], Objective | None], samples: Sequence[Sample],
) -> Imitation:  # fmt: skip
    """Hold the two models against each other on two samples, and make the objective."""
    teacher, student = models
    base = encodes[1]
    scored = tuple(partial(mark_scored_tokens, model) if keys.task in _TOKEN_TASKS else None for model in models)
    there, own, fit = plan_states(teacher, student, settings, (scored[0], scored[1]))
    if settings.logits and keys.task in (*_TOKEN_TASKS, "imitate"):
        check_vocabularies(models)
    probe = choose_probe(samples)
    states, batch = probe_states(there, encodes[0], probe)
    found, own_batch = probe_states(own, base.encode if base is not None else partial(_encode_plain, student), probe)
    maps = check_fit(fit, states, found, models, settings)
    _check_top(settings, states)
    if maps and count_processes() > 1:
        raise InputError("distill.projection: maps between widths are not trained by several processes; use relations, or one process")
    if settings.attentions:
        fit = replace(fit, causal=mark_causal(fit, models, (batch, own_batch)))
    asked = Teacher(there, encodes[0], settings.top if settings.logits else 0, settings.temperature)
    outputs = TeacherOutputs(asked, samples, None, settings.stored)
    projections = make_projections(maps, keys.seed)
    numbers = {id(sample): number for number, sample in enumerate(samples)}
    return Imitation(keys.task, student, base, own, outputs, fit, settings, numbers, projections.to(keys.device))


def _check_top(settings: DistillSettings, states: Mapping[str, Any]) -> None:
    for name, rows in states.items():
        if settings.top and name.startswith("logits.") and rows.values.shape[-1] <= settings.top:
            raise InputError(f"distill.top is {settings.top}, but the teacher has {rows.values.shape[-1]} scores in {name}; leave it out")


def _show_teacher(sample: Sample) -> Sample:
    """What of a sample matters to the teacher: what is to be said does, labels, groups and splits do not."""
    return replace(sample, label=None, labels={}, label_name=None, group=None, split="")


def _sort_by_content(samples: Sequence[Sample]) -> list[Sample]:
    """In an order that the split does not matter to, so that runs with other seeds find the same outputs."""
    return sorted(samples, key=lambda sample: digest_samples([_show_teacher(sample)]))


def _describe_encoding(teacher: Model) -> dict[str, Any]:
    """What makes numbers of samples for the teacher."""
    files = {}
    if teacher.folder is not None:
        for path in find_companion_files(teacher.folder):
            files[str(path)] = hashlib.sha256((teacher.folder / path).read_bytes()).hexdigest()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"version": _VERSION, "files": files, **versions}


def _describe_outputs(
    teacher: Model, digest: str, samples: Sequence[Sample], reader: StateReader, settings: DistillSettings
) -> dict[str, Any]:
    """All that the teacher's outputs depend on."""
    return {
        "teacher": digest, "samples": digest_samples([_show_teacher(s) for s in samples]), "count": len(samples), "logits": reader.logits,
        "embeddings": reader.embeddings, "features": list(reader.blocks), "attentions": sorted(reader.attentions),
        "words": reader.scored is not None, "stored": settings.stored, "together": AT_ONCE,
        "top": [settings.top, settings.temperature] if settings.top and reader.logits else None, **_describe_encoding(teacher),
    }  # fmt: skip

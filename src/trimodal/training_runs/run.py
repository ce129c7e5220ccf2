"""The verb `train`: read, check, train, evaluate, save.

While a run is under way its checkpoints, curves and settings lie in `OUT.run` beside the output; that is what `resume` goes on from, and
it vanishes when OUT is there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trimodal.core import Sample
from trimodal.data import (
    Data,
    check_media,
    check_modalities,
    check_signals,
    choose_samples,
    digest_samples,
    open_data,
    read_samples,
    split_calibration_and_held_out,
)
from trimodal.errors import DataError, InputError, OutputError, RecipeError
from trimodal.formats import check_not_inside_artifact, check_output_place, open_atomic_folder
from trimodal.models.process import leaves_process_unchanged
from trimodal.progress import Progress, ignore_progress, tell_nobody
from trimodal.training.checkpoints import find_last_checkpoint
from trimodal.training.engine import EngineResult, train_module
from trimodal.training.memory import MemoryEstimate, check_memory, estimate_memory
from trimodal.training.objective import Objective
from trimodal.training.order import order_samples
from trimodal.training.settings import (
    EngineSettings,
    RunFolder,
    check_device,
    check_precision,
    count_processes,
    is_main_process,
)
from trimodal.training.tasks import make_objective
from trimodal.training.telling import check_trackers, read_curves
from trimodal.training_runs.building import (
    BuiltModel,
    build_training_model,
    freeze_parameters_,
    number_samples,
    place_model_,
)
from trimodal.training_runs.config_file import TrainKeys, list_tracks, read_config, to_plain
from trimodal.training_runs.evaluation import Evaluation
from trimodal.training_runs.rounds import find_finished_round, list_rounds
from trimodal.training_runs.run_folder import hold_run, prepare_run
from trimodal.training_runs.saving import write_trained_model
from trimodal.training_runs.teaching import Lesson, check_not_own_teacher, prepare_lesson
from trimodal.verification.footprint import collect_versions, peak_memory_bytes

_EVALUATIONS = 10
_PROBE = 2
Tell = Callable[[str], None]


@dataclass(frozen=True)
class TrainResult:
    """What `train` hands over: the folder, how many steps it went, the numbers on held-out samples, and the curves, line by line."""

    folder: Path
    steps: int
    stopped_early: bool
    metrics: Mapping[str, float]
    seconds: float
    curves: list[dict[str, Any]] = field(repr=False, default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As plain data, without the curves, which lie in the folder."""
        return {
            "folder": str(self.folder), "steps": self.steps, "stopped_early": self.stopped_early, "metrics": dict(self.metrics),
            "seconds": self.seconds,
        }  # fmt: skip


@dataclass(frozen=True)
class _Samples:
    train: list[Sample]
    held_out: list[Sample]
    digest: str
    source: str


@dataclass(frozen=True)
class _Job:
    """All that a run needs, checked."""

    folder: Path
    run: RunFolder
    keys: TrainKeys
    samples: _Samples
    built: BuiltModel
    settings: EngineSettings
    objective: Objective
    evaluation: Evaluation | None
    memory: MemoryEstimate
    lesson: Lesson | None = None

    def say_what_it_is(self) -> dict[str, Any]:
        """What makes the run another if it changes."""
        taught = {"teacher_sha256": self.lesson.digest} if self.lesson is not None else {}
        return {**to_plain(self.keys), "data_sha256": self.samples.digest, **taught}

    def order_samples(self) -> list[int]:
        """The samples of all steps, by number."""
        kinds = [_kind_of(self.built, sample) for sample in self.samples.train]
        return order_samples(kinds, self.settings.steps, self.settings.batch, self.settings.seed)

    def describe(self) -> str:
        """What lies ahead, in one line."""
        counts = f"{len(self.samples.train):,}, {len(self.samples.held_out):,} held out"
        return f"{self.settings.steps:,} steps of {self.settings.batch} samples out of {counts}; {self.memory.describe()}"


@leaves_process_unchanged
def train(
    config: str | Path | Mapping[str, Any], *, data: Data | None = None, out: str | Path | None = None, resume: bool = False,
    force: bool = False, ignore_limits: bool = False, progress: Progress = ignore_progress, tell: Tell = tell_nobody,
) -> TrainResult:  # fmt: skip
    """Train a model as a configuration says, and write it as a folder in Hugging Face format.

    Args:
        config: YAML file, or its content as a mapping (docs/training.md).
        data: in place of what the configuration names: whatever `open_data` takes, rows in memory too.
        out: in place of the configuration's `output`.
        resume: go on from the last checkpoint of a run that was killed.
        force: replace `out` if it is not empty, and begin a run anew that was killed.
        ignore_limits: begin even where the free memory seems too small.
        progress: called with what is going on, how much is done, and how much there is.
        tell: called with each notice, before and during the run.

    Raises:
        InputError: the configuration, model, data or output place cannot be used, or the run does not fit into memory.
        DivergedError: the loss is not finite; the last good checkpoint is kept.
    """
    name, keys = read_config(config)
    *assistants, last = list_rounds(name, keys, out)
    for number, one in enumerate(assistants, 1):
        tell(f"assistant {number} of {len(assistants)}: {one.output}")
        _train_once(name, one, data, None, resume, force, ignore_limits, progress, tell, kept=True)
    return _train_once(name, last, data, out, resume, force, ignore_limits, progress, tell)


def _train_once(
    name: str, keys: TrainKeys, data: Data | None, out: str | Path | None, resume: bool, force: bool, ignore_limits: bool,
    progress: Progress, tell: Tell, kept: bool = False,
) -> TrainResult:  # fmt: skip
    """One round: with `kept`, a folder that this very round has written is taken as it is."""
    started = time.perf_counter()
    job = _prepare_job(name, keys, data, out, force or kept, progress, tell)
    if kept and (done := find_finished_round(job.folder, job.say_what_it_is())) is not None:
        tell(f"{job.folder} is there already, from the same configuration, data and teacher")
        if job.lesson is not None:
            job.lesson.clean_up(job.built.model.module)
        return TrainResult(job.folder, done["steps"], done["stopped_early"], done["metrics"], 0.0)
    if kept and not force and is_main_process():
        check_output_place(job.folder, force)
    _tell_if_any(tell, check_precision(job.settings))
    if not ignore_limits:
        check_memory(job.memory, job.settings.device, count_processes())
    with hold_run(job.run):
        prepare_run(job.run, job.say_what_it_is(), resume or (kept and find_last_checkpoint(job.run.path) is not None), force)
        if job.lesson is not None:
            job.lesson.prepare(progress, tell)
        tell(job.describe())
        found = _run_job(job, resume, progress, tell)
    if not found.is_main_process:
        return TrainResult(job.folder, found.steps, found.stopped_early, {}, time.perf_counter() - started)
    progress("evaluate and save", job.settings.steps, job.settings.steps)
    metrics = job.evaluation() if job.evaluation is not None else {}
    if job.lesson is not None:
        job.lesson.clean_up(job.built.model.module)
    seconds = round(time.perf_counter() - started, 3)
    with open_atomic_folder(job.folder, force) as place:
        write_trained_model(job.built, place, job.run, _make_record(job, found, metrics, seconds))
    curves = read_curves(job.run.curves)
    shutil.rmtree(job.run.path)
    return TrainResult(job.folder, found.steps, found.stopped_early, metrics, seconds, curves)


def _run_job(job: _Job, resume: bool, progress: Progress, tell: Tell) -> EngineResult:
    try:
        return train_module(
            job.built.model.module, job.objective, job.samples.train, job.order_samples(), job.settings, job.run,
            measure=job.evaluation, resume=resume, progress=progress, tell=tell,
        )  # fmt: skip
    except InputError:
        if is_main_process() and find_last_checkpoint(job.run.path) is None:
            shutil.rmtree(job.run.path, ignore_errors=True)  # nothing to go on from
        raise


def _prepare_job(
    name: str, keys: TrainKeys, data: Data | None, out: str | Path | None, force: bool, progress: Progress, tell: Tell
) -> _Job:
    """Read and check everything, before anything is written."""
    check_device(keys.device)
    folder = _check_place(out or keys.output, force, name)
    samples, built = _read_all(keys, data, name)
    settings = make_settings(keys, len(samples.train), bool(samples.held_out), folder.name)
    check_trackers(settings.trackers)
    part = settings.part_size(count_processes())
    lesson = None
    if keys.distill is not None:
        check_not_own_teacher(keys.distill.teacher, folder)
        place = folder.parent / f"{folder.name}.teacher"
        lesson = prepare_lesson(keys, built.model, samples.train, samples.held_out, part, place, progress, tell)
        samples = replace(samples, train=lesson.train, held_out=lesson.held_out)
        objective = lesson.objective
    else:
        objective = make_objective(keys.task, built.model, [*samples.train, *samples.held_out], part=part, hidden=keys.hide, seed=keys.seed)
    compares = keys.task == "retrieve" or (keys.distill is not None and keys.distill.affinity > 0)
    together = settings.batch if compares else part  # how many pairs are compared must not depend on how a step is parted
    evaluation = Evaluation(built.model, objective, samples.held_out, together, keys.seed) if samples.held_out else None
    memory = _estimate(built, objective, samples, settings)
    run = RunFolder(folder.parent / f"{folder.name}.run")
    return _Job(folder, run, keys, samples, built, settings, objective, evaluation, memory, lesson)


def _check_place(out: str | Path | None, force: bool, name: str) -> Path:
    if out is None:
        raise OutputError(f"{name}: there is no folder to write the result to; give output, or -o")
    if is_main_process():
        check_output_place(Path(out), force)
    check_not_inside_artifact(Path(out))
    return Path(out)


def _tell_if_any(tell: Tell, message: str) -> None:
    if message:
        tell(message)


def _read_all(keys: TrainKeys, data: Data | None, name: str) -> tuple[_Samples, BuiltModel]:
    """The samples, split and numbered as the model numbers its classes, and the model."""
    given = keys.data if data is None else data
    if given is None:
        raise DataError(f"{name}: there is no data; give data, such as data: ./photos")
    source = open_data(given, map=keys.map or None)
    samples = read_samples(source)
    built = build_training_model(keys.model, samples, keys.seed, name)
    freeze_parameters_(built.model.module, keys.freeze, name)
    place_model_(built, keys.device)
    samples = number_samples(built, samples)
    check_media(samples)
    check_signals(built.model, samples)
    if keys.task in ("classify", "retrieve", "segment", "imitate"):  # others take a text for what is to be said
        check_modalities(built.model, samples)
    learned, held_out = split_calibration_and_held_out(samples, keys.seed, keys.held_out)
    if not keys.held_out and not any(sample.split for sample in samples):
        learned, held_out = samples, []
    if not learned:
        raise DataError(f"{source.name}: no sample to train with; all lines are held out")
    chosen = choose_samples(held_out, keys.evaluate_samples, keys.seed)
    return _Samples(learned, chosen, digest_samples(samples), source.name), built


def make_settings(keys: TrainKeys, count: int, evaluated: bool, name: str) -> EngineSettings:
    """The engine's settings for `count` samples to train with.

    Raises:
        RecipeError: early stopping needs held-out samples, and there are none.
    """
    steps = keys.steps or max(1, round((keys.epochs or 1) * count / keys.batch))
    evaluate = (max(1, steps // _EVALUATIONS) if keys.evaluate_every is None else keys.evaluate_every) if evaluated else 0
    checkpoint = (evaluate or max(1, steps // _EVALUATIONS)) if keys.checkpoint_every is None else keys.checkpoint_every
    stop = keys.early_stopping
    if stop is not None and not evaluate:
        raise RecipeError("early_stopping needs held-out samples; give held_out, or lines with split: test")
    if stop is not None and checkpoint and checkpoint != evaluate:
        raise RecipeError(f"checkpoint_every is {checkpoint}, but with early_stopping must be evaluate_every ({evaluate}); leave it out")
    if keys.fsdp:
        _check_fsdp()
    tracks = list_tracks(keys) if keys.track is not None else _find_default_trackers()
    return EngineSettings(
        steps=steps, batch=keys.batch, accumulate=keys.accumulate, learning_rate=keys.learning_rate, schedule=keys.schedule,
        warmup=keys.warmup, weight_decay=keys.weight_decay, gradient_clip=keys.gradient_clip, precision=keys.precision,
        gradient_checkpointing=keys.gradient_checkpointing, frozen_noise=keys.frozen_noise, evaluate_every=evaluate,
        checkpoint_every=evaluate if stop is not None else checkpoint, patience=stop.patience if stop else 0,
        least=stop.least if stop else 0.0, metric=stop.metric if stop else "loss", seed=keys.seed, device=keys.device,
        trackers=tuple(track for track in tracks if track != "none"), name=name, fsdp=keys.fsdp,
    )  # fmt: skip


def _check_fsdp() -> None:
    """Weights are parted among processes, so there must be some.

    Raises:
        RecipeError: there is one.
    """
    if count_processes() < 2:
        raise RecipeError("fsdp parts a model among processes, and there is one; run torchrun --nproc_per_node 2 -m trimodal train, "
                          "or leave fsdp out")  # fmt: skip


def _find_default_trackers() -> list[str]:
    """TensorBoard's files, where it is installed."""
    try:
        check_trackers(["tensorboard"])
    except InputError:
        return []
    return ["tensorboard"]


def _kind_of(built: BuiltModel, sample: Sample) -> object:
    """What samples of one batch share."""
    return sample.modalities & frozenset(built.model.modalities), None if sample.inputs is None else sample.inputs.shapes


def _estimate(built: BuiltModel, objective: Objective, samples: _Samples, settings: EngineSettings) -> MemoryEstimate:
    probe = [(place, sample) for place, sample in enumerate(samples.train) if _kind_of(built, sample) == _kind_of(built, samples.train[0])]
    return estimate_memory(built.model.module.eval(), objective, objective.encode(probe[:_PROBE]), settings, count_processes())


def _make_record(job: _Job, found: EngineResult, metrics: Mapping[str, float], seconds: float) -> dict[str, Any]:
    """What `training.json` holds."""
    samples, module = job.samples, job.built.model.module
    return {
        "format": 1, "config": to_plain(job.keys), "seed": job.keys.seed, "versions": collect_versions(),
        "data": {"source": samples.source, "sha256": samples.digest, "train": len(samples.train), "held_out": len(samples.held_out)},
        "model": {"class": type(module).__name__, "factory": job.built.factory, "parameters": sum(p.numel() for p in module.parameters()),
                  "trained": sum(p.numel() for p in module.parameters() if p.requires_grad)},
        "settings": asdict(replace(job.settings, name="")), "processes": count_processes(), "steps": found.steps,
        "stopped_early": found.stopped_early, "best_step": found.best_step, "best_value": found.best_value, "metrics": dict(metrics),
        **({"teacher": job.lesson.describe()} if job.lesson else {}),
        "memory": asdict(job.memory), "peak_bytes": peak_memory_bytes(), "seconds": seconds,
    }  # fmt: skip

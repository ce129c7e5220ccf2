"""The verb `run_pipeline`: train ──> prune ──> distil ──> quantize ──> recover ──> export, from one file.

Each arrow is a folder in `OUTPUT.run`, whole or absent, and known by its inputs: configuration, data, and what came before. What is
there is not done again. Training goes on within its stage, from its last checkpoint; what else is killed begins at the last arrow. Both
ways end with the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimodal.core import Plan, Verdict
from trimodal.data import Data, is_no_data, open_data
from trimodal.errors import InputError, OutputError
from trimodal.exporting.export import export, find_exporter
from trimodal.formats.side_files import read_plan, read_verdict
from trimodal.pipeline import compress
from trimodal.pipeline_runs.held_out import split_as_trained
from trimodal.pipeline_runs.pipeline_file import HELD_OUT, PipelineKeys, make_train_config, read_pipeline
from trimodal.pipeline_runs.working_folder import (
    WorkingFolder,
    digest_content,
    digest_data,
    digest_output,
    digest_start,
    digest_weights,
)
from trimodal.planning import read_recipe
from trimodal.progress import Progress, ignore_progress, tell_nobody
from trimodal.training.settings import RunFolder, count_processes
from trimodal.training_runs.config_file import read_config, to_plain
from trimodal.training_runs.run import TrainResult, train
from trimodal.training_runs.run_folder import hold_run

Tell = Callable[[str], None]


@dataclass(frozen=True)
class PipelineResult:
    """What `run_pipeline` hands over: the artifact's `folder` with its plan and verdict, the `trained` model's folder if one was trained,
    what training said if it was done now, the `exports` by format, and the stages that were `kept` from an earlier run."""

    folder: Path
    plan: Plan
    verdict: Verdict
    trained: Path | None
    training: TrainResult | None
    exports: Mapping[str, Path] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "folder": str(self.folder), "trained": None if self.trained is None else str(self.trained),
            "training": None if self.training is None else self.training.to_json(), "verdict": self.verdict.to_json(),
            "exports": {name: str(path) for name, path in self.exports.items()}, "kept": list(self.kept),
        }  # fmt: skip


@dataclass(frozen=True)
class _Run:
    """All that the stages share."""

    name: str
    keys: PipelineKeys
    folder: WorkingFolder
    data: Data | None
    ignore_limits: bool
    progress: Progress
    tell: Tell
    on_plan: Callable[[Plan], None]
    kept: list[str] = field(default_factory=list)

    def keep(self, stage: str) -> None:
        """Say that a stage is done already."""
        self.kept.append(stage)
        self.tell(f"{stage}: done already")


def run_pipeline(
    pipeline: str | Path | Mapping[str, Any], *, data: Data | None = None, out: str | Path | None = None, resume: bool = False,
    force: bool = False, ignore_limits: bool = False, progress: Progress = ignore_progress, tell: Tell = tell_nobody,
    on_plan: Callable[[Plan], None] = lambda plan: None,
) -> PipelineResult:  # fmt: skip
    """Train a model, or take one, compress it by a recipe, and export the result, all as one file says (docs/training.md).

    Args:
        pipeline: YAML file, or its content as a mapping.
        data: in place of what the pipeline names for all parts: whatever `open_data` takes, rows in memory too.
        out: in place of the pipeline's `output`.
        resume: go on after a kill, or after a change; stages whose inputs are as they were are not done again.
        force: begin anew, and replace `out` if it is not empty.
        ignore_limits: begin even where memory or disk seem too small.
        progress: called with what is going on, how much is done, and how much there is.
        tell: called with each notice.
        on_plan: called with the plan before compression begins.

    Raises:
        InputError: the pipeline, a model, the data or a place cannot be used.
        DivergedError: the training's loss is not finite.
        IntegrityError: what was written does not reload to the same model.
    """
    name, keys = read_pipeline(pipeline)
    place = out or keys.output
    if place is None:
        raise OutputError(f"{name}: there is no folder to write the result to; give output, or -o")
    if count_processes() > 1:
        raise InputError(
            f"{name}: a pipeline is run by one process; train by torchrun -m trimodal train first, and give the result as model"
        )
    for to in keys.list_exports():
        find_exporter(to).require_packages()
    working = WorkingFolder(Path(place))
    with hold_run(RunFolder(working.path)):
        working.open(resume, force)
        run = _Run(name, keys, working, data, ignore_limits, progress, tell, on_plan)
        training = _train(run) if keys.train is not None else None
        planned, verdict = _compress(run)
        exports = {to: _export(run, to) for to in keys.list_exports()}
    return PipelineResult(working.output, planned, verdict, working.trained if keys.train else None, training, exports, tuple(run.kept))


def _train(run: _Run) -> TrainResult | None:
    """Train, or find that it is done; a training with other inputs is begun anew."""
    working, config = run.folder, make_train_config(run.keys)
    _, keys = read_config(config)
    given = run.data if run.data is not None and "data" not in (run.keys.train or {}) else None
    read = given if given is not None else keys.data
    source = None if read is None else open_data(read, map=keys.map or None)
    said = {"config": to_plain(keys), "data_sha256": digest_data(source), "start": digest_start(keys.model)}
    unfinished = working.path / f"{working.trained.name}.run"
    if working.read("train") != said:
        for path in (working.trained, unfinished):
            if path.exists():
                run.tell(f"{path.name}: its inputs have changed, so it is done anew")
                shutil.rmtree(path)
        working.write("train", said)
    if working.trained.exists():
        run.keep(working.trained.name)
        return None
    run.tell(f"{working.trained.name}: {'going on' if unfinished.exists() else 'beginning'}")
    return train(
        config, data=given, out=working.trained, resume=unfinished.exists(), ignore_limits=run.ignore_limits, progress=run.progress,
        tell=run.tell,
    )  # fmt: skip


def _compress(run: _Run) -> tuple[Plan, Verdict]:
    """Compress what was trained, or find that it is done."""
    keys, working = run.keys, run.folder
    model: Any = working.trained if keys.train is not None else keys.model
    data, recipe = _choose_data(run), read_recipe(keys.compress.recipe)
    weights = digest_weights(Path(model)) if isinstance(model, str | Path) and Path(model).is_dir() else {"model": str(model)}
    asked = {
        "recipe": dict(recipe.raw), "data_sha256": digest_data(data), "model": weights, "seed": keys.seed, "pack": keys.compress.pack,
        "target": keys.compress.target,
    }  # fmt: skip
    said = digest_content(asked)
    before = working.read("compress") or {}
    if before.get("asked") == said and before.get("output") == digest_output(working.output) is not None:
        run.keep("compress")
        return read_plan(working.output), read_verdict(working.output)
    result = compress(
        model if callable(model) else str(model), keys.compress.recipe, data, working.output, seed=keys.seed, pack=keys.compress.pack,
        target=keys.compress.target, device=keys.device, force=working.output.exists(), ignore_limits=run.ignore_limits,
        stages=working.path, progress=run.progress, on_plan=run.on_plan,
    )  # fmt: skip
    working.write("compress", {"asked": said, "output": digest_output(working.output)})
    working.write("export", {})
    return result.plan, result.verdict


def _choose_data(run: _Run) -> Data | None:
    """The samples to compress and verify with. Those that training held out are held out here too."""
    own, keys = run.keys.compress, run.keys
    if own.data is not None:
        return None if is_no_data(own.data) else open_data(own.data, map=own.map or None)
    data = run.data if run.data is not None else keys.data
    trained = make_train_config(keys) if keys.train is not None else {}
    if data is None:
        data = trained.get("data")
    if data is None:
        return None
    columns = {**keys.map, **own.map}
    share = trained.get("held_out", HELD_OUT)
    if not share:
        run.tell("training held out nothing, so what is measured after compression is measured on samples that it was trained with")
    if share in (0, HELD_OUT) or (keys.train or {}).get("data") not in (None, data):
        return open_data(data, map=columns or None)
    return split_as_trained(data, columns, keys.seed, share)


def _export(run: _Run, to: str) -> Path:
    """Write one format, or find that it is done."""
    working, done = run.folder, run.folder.read("export") or {}
    if to in done and Path(done[to]).exists():
        run.keep(f"export {to}")
        return Path(done[to])
    model = run.keys.model
    factory = model if callable(model) or (isinstance(model, str) and ":" in model) else None
    run.progress(f"export to {to}", 0, 1)
    found = export(str(working.output), to, data=_choose_data(run), force=True, factory=factory)
    working.write("export", {**done, to: str(found.place)})
    return found.place

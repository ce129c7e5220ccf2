"""A pipeline from training to the artifact: what is done, what is not done again, and what a stop in between changes: nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_pipelines import STAGES, digest_weights, make_pipeline

import trimodal
from trimodal.compression.stage_folders import StageFolders
from trimodal.data import read_samples, split_calibration_and_held_out
from trimodal.networks.tiny import write_miniature_data
from trimodal.pipeline_runs.held_out import split_as_trained


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature_data(tmp_path_factory.mktemp("pictures"), 40, ["image"])


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trimodal.run_pipeline(make_pipeline(pictures, tmp_path_factory.mktemp("whole") / "out"))


def test_every_stage_is_a_folder(whole: Any, pictures: Path, tmp_path: Path) -> None:
    working = whole.folder.with_name("out.run")
    assert sorted(path.name for path in working.iterdir()) == [*STAGES, "pipeline.json"]
    lines = [json.loads(line) for line in (whole.folder / "record.jsonl").read_text().splitlines()]
    assert [line["edit"] for line in lines if line["kind"] == "fit"] == [1, 1, 1, 3, 3, 3]
    assert {edit.method for edit in whole.plan.edits} == {"prune.neurons", "distill", "quantize.rtn"}
    assert trimodal.load(working / "2-distill").config.num_labels == 2
    # what compress makes of the trained model in one go is the same, bit for bit
    recipe = make_pipeline(pictures, tmp_path)["compress"]["recipe"]
    at_once = trimodal.compress(str(working / "0-train"), recipe, str(pictures), tmp_path / "at-once", seed=0)
    assert digest_weights(at_once.folder) == digest_weights(whole.folder)
    assert at_once.verdict.metrics == whole.verdict.metrics
    assert whole.verdict.metrics[0].samples == 8  # a fifth of 40, as training held out
    assert json.loads((working / "0-train" / "training.json").read_text())["data"]["held_out"] == 8


def test_what_is_done_is_not_done_again(whole: Any, pictures: Path) -> None:
    pipeline = make_pipeline(pictures, whole.folder)
    trained = (whole.folder.with_name("out.run") / "0-train" / "model.safetensors").stat().st_mtime_ns
    again = trimodal.run_pipeline(pipeline, resume=True)
    assert again.kept == ("0-train", "compress")
    assert again.training is None
    assert again.verdict.metrics == whole.verdict.metrics
    assert (whole.folder.with_name("out.run") / "0-train" / "model.safetensors").stat().st_mtime_ns == trained


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_stopped_at_an_arrow_it_ends_with_the_same_bytes(
    stop: int, whole: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, write = make_pipeline(pictures, tmp_path / "out"), StageFolders.write

    def write_and_stop(self: StageFolders, model: Any, number: int, *rest: Any) -> None:
        write(self, model, number, *rest)
        if number == stop:
            raise KeyboardInterrupt

    if stop == 0:  # further stops begin from the stages that the one before has left
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(StageFolders, "write", write_and_stop)
            trimodal.run_pipeline(pipeline)
    else:
        copy_stages(whole.folder.with_name("out.run"), tmp_path / "out.run", stop)
    told: list[str] = []
    found = trimodal.run_pipeline(pipeline, resume=True, tell=told.append)
    assert "0-train: done already" in told
    assert digest_weights(found.folder) == digest_weights(whole.folder)


def copy_stages(source: Path, target: Path, last: int) -> None:
    """What a run that was stopped after stage `last` of compression has left."""
    target.mkdir()
    shutil.copy(source / "pipeline.json", target)
    for name in STAGES[: last + 2]:
        shutil.copytree(source / name, target / name)


def test_a_change_is_done_from_where_it_matters(whole: Any, pictures: Path, tmp_path: Path) -> None:
    copy_stages(whole.folder.with_name("out.run"), tmp_path / "out.run", 3)
    before = {name: (tmp_path / "out.run" / name).stat().st_ino for name in STAGES}
    found = trimodal.run_pipeline(make_pipeline(pictures, tmp_path / "out", bits=4), resume=True)
    after = {name: (tmp_path / "out.run" / name).stat().st_ino for name in STAGES}
    assert [name for name in STAGES if before[name] == after[name]] == ["0-train", "1-prune", "2-distill"]
    assert found.plan.edits[2].config["bits"] == 4
    assert digest_weights(found.folder) != digest_weights(whole.folder)


def test_other_training_begins_anew(whole: Any, pictures: Path, tmp_path: Path) -> None:
    copy_stages(whole.folder.with_name("out.run"), tmp_path / "out.run", 3)
    told: list[str] = []
    trimodal.run_pipeline(make_pipeline(pictures, tmp_path / "out", steps=2), resume=True, tell=told.append)
    assert "0-train: its inputs have changed, so it is done anew" in told
    assert "compress: done already" not in told


def test_both_parts_hold_out_the_same_samples(pictures: Path) -> None:
    samples = read_samples(pictures)
    _, trained = split_calibration_and_held_out(samples, 5, 0.4)
    marked = read_samples(split_as_trained(str(pictures), {}, 5, 0.4))
    _, verified = split_calibration_and_held_out(marked, 0)
    assert [sample.line for sample in verified] == [sample.line for sample in trained]
    assert len(trained) == 16

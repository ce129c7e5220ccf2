"""The examples of training: their configurations are read, their data are made, and sensors go all the way through."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

import trimodal
from trimodal.pipeline_runs.pipeline_file import read_pipeline
from trimodal.training_runs.config_file import read_config

FOLDER = Path(__file__).parents[2] / "examples" / "training"


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


PIPELINES = [FOLDER / "pipeline.yaml"]


@pytest.mark.parametrize("config", PIPELINES, ids=lambda path: path.stem)
def test_pipelines_are_read(config: Path) -> None:
    _, keys = read_pipeline(config)
    assert keys.output and keys.train


@pytest.mark.parametrize("config", sorted(set(FOLDER.glob("*.yaml")) - set(PIPELINES)), ids=lambda path: path.stem)
def test_configurations_are_read(config: Path) -> None:
    _, keys = read_config(config)
    assert keys.output and (keys.steps or keys.epochs)


def test_sensors_from_files_through_training_and_compression(tmp_path: Path) -> None:
    data = load_script("draw_sensors").write_sensors(tmp_path / "sensors", 80)
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    assert {frozenset(line) & {"image", "signal.vitals"} for line in lines if line["split"] == "train"} == {
        frozenset({"image", "signal.vitals"}), frozenset({"image"}), frozenset({"signal.vitals"})
    }  # fmt: skip
    config: dict[str, Any] = {**yaml.safe_load((FOLDER / "sensors.yaml").read_text()), "steps": 20, "batch": 8, "track": "none"}
    found = trimodal.train(config, data=data, out=tmp_path / "alarms")
    settings = json.loads((found.folder / "config.json").read_text())
    assert settings["id2label"] == {"0": "alarm", "1": "quiet"}  # the classes of the data
    assert found.metrics["loss"] < found.curves[0]["eval_loss"]
    result = trimodal.compress(found.folder, "int8", data, tmp_path / "out")
    accuracy = next(metric for metric in result.verdict.metrics if metric.name == "answer accuracy")
    assert accuracy.before == found.metrics["all_answer_accuracy"]
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["calibration"]["modalities"] == ["image", "signal.vitals"]


def test_sentences_are_of_the_grammar_and_voices_of_the_test_are_new() -> None:
    script = load_script("speak_sentences")
    chance = script.random.Random(0)
    words = {word for _ in range(3000) for word in script.draw_sentence(chance).split()}
    known = {*script.DIGITS, *script.TENS, *script.TEENS, *script.NAMES, *script.ROOMS, *script.DEVICES}
    assert words - known == {word for sentence in (*script.SENTENCES, *script.ANSWERS) for word in sentence.split() if word.islower()}
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    heard, unheard = script.list_voices()
    speakers = [{script._name_speaker(voice) for voice in voices} for voices in (heard, unheard)]
    assert not speakers[0] & speakers[1] and len(speakers[1]) * 3 <= len(speakers[0]) + 3


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_same_seed_speaks_the_same(tmp_path: Path) -> None:
    script = load_script("speak_sentences")
    once, again = (script.write_speech(tmp_path / name, 3, 1, workers=workers) for name, workers in (("a", 1), ("b", 2)))
    assert once.read_text() == again.read_text()
    lines = [json.loads(line) for line in once.read_text().splitlines()]
    assert [line["split"] for line in lines] == ["train"] * 3 + ["test"]
    for line in lines:
        wave, rate = soundfile.read(once.parent / line["audio"], dtype="float32")
        assert rate == 16_000 and 0 < len(wave) <= 32_000 and 0.5 < np.abs(wave).max() <= 1
        assert np.array_equal(wave, soundfile.read(again.parent / line["audio"], dtype="float32")[0])


def test_without_espeak_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("speak_sentences")
    monkeypatch.setattr(script.shutil, "which", lambda _: None)
    monkeypatch.setattr(script.sys, "argv", ["speak_sentences", "nowhere", "1", "1"])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert "there is no espeak-ng; install it: apt-get install espeak-ng" in str(stopped.value)

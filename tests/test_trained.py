"""Models and data that benchmarks train and keep: made once, called by what they were made of; and what the scenes ask."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.trained import MadeData, TrainedModel, get_trained, make_data, read_training
from benchmarks.trained.questions import say_most_common, say_without_looking
from examples.training import draw_scenes
from trimodal.core import Sample
from trimodal.networks.tiny import write_miniature_data

CONFIG = {
    "model": {
        "class": "ViTForImageClassification",
        "config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 16,
                   "patch_size": 8},
        "processors": {"image": {"class": "ViTImageProcessor", "size": {"height": 16, "width": 16}}},
    },
    "data": "nowhere.jsonl", "output": "nowhere", "task": "classify", "steps": 2, "batch": 4, "track": "none",
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> TrainedModel:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "code.py").write_text("1")
    data = MadeData("data", lambda folder: write_miniature_data(folder, 16, ["image"]), (tmp_path / "code.py",))
    return TrainedModel("vit", tmp_path / "config.yaml", data, "data.jsonl")


def test_a_model_is_trained_once(model: TrainedModel, tmp_path: Path) -> None:
    said: list[str] = []
    first = get_trained(model, 0, tmp_path, said.append)
    assert read_training(first)["steps"] == 2 and said
    said.clear()
    assert get_trained(model, 0, tmp_path, said.append) == first and not said


def test_what_it_is_made_of_names_it(model: TrainedModel, tmp_path: Path) -> None:
    before, key = model.find_key(0), model.data.key
    assert model.find_key(1) != before != replace(model, changes={"steps": 3}).find_key(0)
    (tmp_path / "code.py").write_text("2")
    assert model.data.key != key and model.find_key(0) != before
    assert replace(model, parts={"tower": model}).find_key(0) != model.find_key(0)


def test_data_that_were_not_finished_are_made_again(model: TrainedModel, tmp_path: Path) -> None:
    made: list[Path] = []
    data = replace(model.data, write=made.append)
    folder = make_data(data, tmp_path)
    make_data(data, tmp_path)
    assert made == [folder]
    (folder / ".complete").unlink()
    make_data(data, tmp_path)
    assert made == [folder, folder]


def test_no_scene_of_the_test_is_one_to_learn_from(tmp_path: Path) -> None:
    draw_scenes.write_scenes(tmp_path, 30, 10)
    captions = (tmp_path / "captions.jsonl").read_text()
    draw_scenes.write_scenes(tmp_path, 30, 10)
    assert (tmp_path / "captions.jsonl").read_text() == captions  # the seed says all
    lines = [yaml.safe_load(line) for line in captions.splitlines()]
    said = {split: {", ".join(sorted(line["text"].split(", "))) for line in lines if line["split"] == split} for split in ("train", "test")}
    assert len(said["train"]) == 30 and len(said["test"]) == 10 and not said["train"] & said["test"]


def test_questions_have_the_answers_of_their_scene() -> None:
    scene = (draw_scenes.Thing("circle", "red", "small", 0, 0), draw_scenes.Thing("cross", "blue", "large", 1, 2))
    asked = {draw_scenes.ask_beside(scene, random.Random(seed)) for seed in range(40)}
    assert asked == {
        ("what colour is the shape right of the red circle ?", "blue"), ("what colour is the shape left of the blue cross ?", "red"),
        ("what colour is the shape below the red circle ?", "blue"), ("what colour is the shape above the blue cross ?", "red"),
    }  # fmt: skip
    counted = {draw_scenes.ask_count(scene, random.Random(seed)) for seed in range(200)}
    assert ("how many shapes are there ?", "two") in counted and ("how many circle things are there ?", "one") in counted
    assert all(answer in ("zero", "one", "two") for _, answer in counted if answer)
    for seed in range(40):
        question, answer = draw_scenes.ask_presence(scene, random.Random(seed)) or ("", "")
        there = any(f"{thing.colour} {thing.shape}" in question for thing in scene)
        assert answer == ("yes" if there else "no") and draw_scenes.find_kind(question) == "presence"


def test_answers_without_looking() -> None:
    def make(*pairs: tuple[str, str]) -> list[Sample]:
        return [Sample(line, text=text, target=target) for line, (text, target) in enumerate(pairs, start=1)]

    train = make(("how many a ?", "one"), ("how many a ?", "one"), ("how many b ?", "two"), ("is there a c ?", "yes"))
    test = make(("how many b ?", "two"), ("how many c ?", "one"), ("is there a d ?", "no"))
    assert say_most_common(train, test).share("count") == 50.0
    found = say_without_looking(train, test)
    assert (found.share("count"), found.share("presence"), found.mean) == (100.0, 0.0, 50.0)

"""A pipeline file: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import trimodal
from trimodal.errors import InputError, OutputError, RecipeError
from trimodal.pipeline_runs.pipeline_file import make_train_config, read_pipeline

TRAIN = {"model": "./vit", "task": "classify", "steps": 10}
GOOD: dict[str, Any] = {"data": "./photos", "output": "out", "train": TRAIN, "compress": {"recipe": "int8"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tain": {}}, "pipeline: unknown key 'tain'; did you mean 'train'?"),
        ({"compress": {"recipes": "int8", "recipe": "int8"}}, "unknown key 'recipes' in compress; did you mean 'recipe'?"),
        ({"compress": {}}, "there is no key 'compress.recipe'; a pipeline needs output"),
        ({"compress": {"recipe": "int9"}}, "compress.recipe: there is no recipe file int9.*did you mean 'int"),
        ({"compress": {"recipe": {"steps": [{"prune.nothing": {}}]}}}, "compress.recipe: recipe: step 1: there is no method"),
        ({"model": "./clip"}, "both train and model"),
        ({"train": None}, "neither train nor model"),
        ({"train": {**TRAIN, "seed": 3}}, "train says seed, which holds for all parts; put it at the top"),
        ({"train": {**TRAIN, "taks": 3}}, "unknown key 'taks'; did you mean 'task'"),
        ({"train": {**TRAIN, "model": "mine.nets:build"}}, "train.model is a function"),
        ({"seed": -1}, "seed is -1, but must be a whole number"),
    ],
)
def test_mistakes(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read_pipeline({**GOOD, **change})


def test_all_parts_share_data_and_seed() -> None:
    _, keys = read_pipeline({**GOOD, "seed": 7, "map": {"text": "caption"}})
    config = make_train_config(keys)
    assert (config["data"], config["map"], config["seed"]) == ("./photos", {"text": "caption"}, 7)
    assert config["held_out"] == 0.2  # as much as compress holds out, so that both hold out the same
    own = {**TRAIN, "data": "./others", "held_out": 0.4}
    config = make_train_config(read_pipeline({**GOOD, "train": own, "map": {"text": "caption"}})[1])
    assert (config["data"], config.get("map"), config["held_out"]) == ("./others", None, 0.4)


def test_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="there is no export format 'onyx'"):
        trimodal.run_pipeline({**GOOD, "export": "onyx", "output": str(tmp_path / "out")})
    with pytest.raises(OutputError, match="there is no folder to write"):
        trimodal.run_pipeline({**GOOD, "output": None})
    (tmp_path / "out.run").mkdir()
    with pytest.raises(OutputError, match="holds what an earlier run left; go on from there with --resume"):
        trimodal.run_pipeline({**GOOD, "output": str(tmp_path / "out")})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="a pipeline is run by one process; train by torchrun"):
        trimodal.run_pipeline(GOOD)

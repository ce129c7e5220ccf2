"""A training configuration: what is refused, and in which words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import transformers as hf

from trimodal.data import read_samples
from trimodal.errors import RecipeError
from trimodal.training_runs.building import build_training_model, check_config_keys, freeze_parameters_
from trimodal.training_runs.config_file import TrainKeys, build_train_schema, read_config
from trimodal.training_runs.processors import make_processors, train_tokenizer
from trimodal.training_runs.run import make_settings

GOOD: dict[str, Any] = {"model": "./vit", "data": "./photos", "task": "classify", "steps": 100, "output": "out"}


def test_what_is_not_said_is_as_usual() -> None:
    name, keys = read_config(GOOD)
    assert name == "config"
    assert (keys.batch, keys.precision, keys.schedule, keys.seed) == (32, "fp32", "cosine", 0)


def test_an_exponent_is_a_number(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("model: m\ntask: retrieve\nepochs: 2\nlearning_rate: 1e-4\n")
    assert read_config(file)[1].learning_rate == 1e-4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stepz": 3}, "unknown key 'stepz'; did you mean 'steps'?"),
        ({"task": "clasify"}, "task is 'clasify', but must be one of classify, retrieve, .*did you mean 'classify'"),
        ({"precision": "fp8"}, "precision is 'fp8', but must be one of fp32, bf16, fp16"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast', but must be a number"),
        ({"batch": 0}, "batch is 0, but must be"),
        ({"epochs": 2}, "both steps and epochs; give one of them"),
        ({"steps": None}, "neither steps nor epochs"),
        ({"early_stopping": {"patients": 3}}, "unknown key 'patients' in early_stopping; did you mean 'patience'?"),
        ({"early_stopping": {}, "evaluate_every": 0}, "early_stopping needs evaluations, but evaluate_every is 0"),
        ({"track": "tensorbord"}, "track is 'tensorbord'; did you mean 'tensorboard'?"),
        ({"seed": -1}, "seed is -1, but must be a whole number"),
    ],
)
def test_mistakes(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read_config({**GOOD, **change})


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_config(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match=r"bad.yaml, line 1: not valid YAML"):
        read_config(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(RecipeError, match="found list, expected a mapping"):
        read_config(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"clas": "ViTModel"}, "unknown key 'clas' in model; did you mean 'class'?"),
        ({"config": {}}, "model says neither `class` nor `from`"),
        ({"from": "x", "config": {"a": 1}}, "model says both `from` and `config`"),
        ({"class": "ViTModel", "config": {"hiden_size": 3}}, "model.config: ViTConfig has no 'hiden_size'; did you mean 'hidden_size'"),
        ({"class": "CLIPModel", "config": {"text_config": {"layers": 3}}}, "model.config.text_config: CLIPTextConfig has no 'layers'"),
        ({"class": "ViTModel", "processors": {"video": 1}}, "unknown key 'video' in model.processors"),
        ({"class": "ViTModel", "processors": {"image": {"size": 3}}}, "model.processors.image names no class"),
        ({"class": "ViTModel", "processors": {"text": {"vocabulary": 3}}}, "expected a folder, or {vocabulary: N} with N at least 261"),
        (17, "model is 17, but must be a folder"),
    ],
)
def test_models_that_cannot_be_made(model: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        build_training_model(model, read_samples([{"text": "a", "label": 0}]), 0, "t.yaml")


def test_a_configuration_knows_its_aliases() -> None:
    check_config_keys(hf.GPT2Config, {"n_embd": 8, "hidden_size": 8, "num_labels": 3}, "x")


def test_a_trained_tokenizer_gives_texts_back_and_sets_the_configuration() -> None:
    texts = ["a red bus stops", "a blue bus drives on", "the red car"]
    tokenizer = train_tokenizer(texts, 300)
    ids = tokenizer(texts)["input_ids"]
    assert [row[0] for row in ids] == [tokenizer.bos_token_id] * 3 and [row[-1] for row in ids] == [tokenizer.eos_token_id] * 3
    assert [tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids] == texts
    samples = read_samples([{"text": text, "label": name} for text, name in zip(texts, ("stop", "go", "stop"), strict=True)])
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = {"class": "BertForSequenceClassification", "config": sizes, "processors": {"text": {"vocabulary": 300}}}
    built = build_training_model(model, samples, 0, "t")
    config: Any = built.model.module.config
    assert config.vocab_size == len(tokenizer) and config.pad_token_id == tokenizer.pad_token_id
    assert config.id2label == {0: "go", 1: "stop"}
    again = build_training_model(model, samples, 0, "t").model.module.state_dict()
    assert all(value.equal(again[name]) for name, value in built.model.module.state_dict().items())


def test_processors_of_nothing() -> None:
    found, folder = make_processors(None, [], "t")
    assert folder is None and found.image is None


def test_freeze_names_what_is_not_there() -> None:
    module = hf.BertModel(hf.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9))
    assert freeze_parameters_(module, ["embeddings.*"], "t") > 0
    with pytest.raises(RecipeError, match=r"freeze names 'visual.*', which fits no parameter; they are called embeddings"):
        freeze_parameters_(module, ["visual.*"], "t")


def test_epochs_become_steps() -> None:
    keys = TrainKeys.model_validate({**GOOD, "steps": None, "epochs": 2.0, "batch": 8})
    settings = make_settings(keys, 100, True, "out")
    assert (settings.steps, settings.evaluate_every, settings.checkpoint_every) == (25, 2, 2)
    assert make_settings(keys, 100, False, "out").evaluate_every == 0
    stopping = TrainKeys.model_validate({**GOOD, "early_stopping": {}})
    with pytest.raises(RecipeError, match="early_stopping needs held-out samples"):
        make_settings(stopping, 100, False, "out")


def test_the_schema_accepts_and_refuses() -> None:
    schema = build_train_schema()
    jsonschema.validate(GOOD, schema)
    jsonschema.validate({**GOOD, "model": {"class": "CLIPModel", "config": {"projection_dim": 8}}}, schema)
    for bad in ({**GOOD, "stepz": 3}, {**GOOD, "task": "x"}, {**GOOD, "model": {"clas": "x"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_the_command_line_exits_with_2(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({**GOOD, "taks": "classify"}))
    found = subprocess.run([sys.executable, "-m", "trimodal", "train", str(file)], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "c.json: unknown key 'taks'; did you mean 'task'?" in found.stderr

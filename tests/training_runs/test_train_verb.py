"""`train` end to end on miniatures: folders that reload, numbers, early stopping, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_model
from small_runs import VIT, make_config
from transformers import AutoImageProcessor, ViTForImageClassification

import trimodal
from trimodal.data import encode_samples, read_samples, split_calibration_and_held_out
from trimodal.errors import DataError, InputError
from trimodal.formats import open_model
from trimodal.networks.tiny import write_miniature, write_miniature_data
from trimodal.networks.tiny_parts import make_tokenizer
from trimodal.training.settings import EngineSettings, check_precision
from trimodal.training.tasks import make_objective
from trimodal.training_runs.evaluation import transcribe
from trimodal.verification.comparison import compare_models
from trimodal.verification.words import compute_word_error_rate


def test_a_folder_that_transformers_loads(pictures: Path, tmp_path: Path) -> None:
    told: list[str] = []
    found = trimodal.train(make_config(pictures, tmp_path / "out", track="tensorboard"), tell=told.append)
    loaded = ViTForImageClassification.from_pretrained(found.folder)
    assert loaded.config.num_labels == 2  # as many classes as the data have
    assert AutoImageProcessor.from_pretrained(found.folder).size["height"] == 16
    record = json.loads((found.folder / "training.json").read_text())
    assert record["steps"] == found.steps == 12
    assert record["config"]["learning_rate"] == 1e-3
    assert record["data"]["train"] == 36 and record["data"]["held_out"] == 12 and len(record["data"]["sha256"]) == 64
    curves = [json.loads(line) for line in (found.folder / "curves.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curves if "loss" in line] == list(range(1, 13))
    assert curves == found.curves
    assert list((found.folder / "tensorboard").iterdir())
    assert not (tmp_path / "out.run").exists()
    assert any("held out: loss" in line for line in told)


def test_the_numbers_are_those_of_verification(pictures: Path, tmp_path: Path) -> None:
    found = trimodal.train(make_config(pictures, tmp_path / "out", steps=4))
    model = open_model(found.folder)
    samples = read_samples(str(pictures))

    held_out = split_calibration_and_held_out(samples, 0, 0.25)[1]
    metric = next(m for m in compare_models(model, model, held_out, batch_size=8, seed=0).metrics if m.name == "accuracy")
    assert found.metrics["image_accuracy"] == metric.after
    with torch.no_grad():

        scores = model.module(**encode_samples(model, held_out)).logits
    labels = torch.tensor([sample.label for sample in held_out])
    assert found.metrics["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(scores, labels)), rel=1e-5)


def test_same_seed_same_weights(pictures: Path, tmp_path: Path) -> None:
    seeds = {"a": 1, "b": 1, "c": 2}
    folders = [trimodal.train(make_config(pictures, tmp_path / name, steps=3, seed=seed)).folder for name, seed in seeds.items()]
    first, second, other = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second
    assert first != other


def test_accumulated_parts_are_the_whole_batch(pictures: Path, tmp_path: Path) -> None:
    whole = trimodal.train(make_config(pictures, tmp_path / "whole", frozen_noise=True, steps=4))
    parted = trimodal.train(make_config(pictures, tmp_path / "parted", frozen_noise=True, steps=4, accumulate=4))
    losses = [[line["loss"] for line in one.curves if "loss" in line] for one in (whole, parted)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_early_stopping_keeps_the_best(pictures: Path, tmp_path: Path) -> None:
    stop = {"patience": 2, "metric": "loss"}
    config = make_config(pictures, tmp_path / "out", steps=40, evaluate_every=2, early_stopping=stop, learning_rate=0.3, gradient_clip=0)
    found = trimodal.train(config)
    assert found.stopped_early and found.steps < 40
    seen = {line["step"]: line["eval_loss"] for line in found.curves if "eval_loss" in line and line["step"]}
    record = json.loads((found.folder / "training.json").read_text())
    assert record["best_step"] == min(seen, key=lambda step: seen[step])
    assert found.metrics["loss"] == pytest.approx(min(seen.values()), rel=1e-5)


def test_what_does_not_fit(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="fsdp parts a model among processes, and there is one; run torchrun"):
        trimodal.train(make_config(pictures, tmp_path / "out", fsdp=True))
    with pytest.raises(InputError, match="task: retrieve needs a model with an embedding from each of two modalities"):
        trimodal.train(make_config(pictures, tmp_path / "out", task="retrieve"))
    with pytest.raises(InputError, match=r"early_stopping.metric is 'acuracy', which is not evaluated here; did you mean 'image_accuracy'"):
        trimodal.train(make_config(pictures, tmp_path / "out", early_stopping={"metric": "acuracy"}))
    with pytest.raises(InputError, match="device is 'cuda:3', but must be one of cpu, cuda"):
        trimodal.train(make_config(pictures, tmp_path / "out", device="cuda:3"))
    with pytest.raises(InputError, match=r"puts out no text"):
        trimodal.train(make_config(pictures, tmp_path / "out", task="generate"))
    with pytest.raises(InputError, match="batch is 8, which 1 processes with accumulate 3 cannot part evenly"):
        trimodal.train(make_config(pictures, tmp_path / "out", accumulate=3))
    with pytest.raises(DataError, match=r"label is 1, but ViTForImageClassification has 1 classes"):
        trimodal.train(make_config(pictures, tmp_path / "out", model={**VIT, "config": {**VIT["config"], "num_labels": 1}}))
    monkeypatch.setattr("trimodal.training.memory.free_memory_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"training needs about .* GB more \(parameters .* but only 0.0 GB are free"):
        trimodal.train(make_config(pictures, tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_from_weights_with_a_new_head(pictures: Path, tmp_path: Path) -> None:
    start = write_miniature("vit", tmp_path / "vit")
    config = make_config(pictures, tmp_path / "out", model={"from": str(start)}, freeze=["vit.*"], steps=2)
    found = trimodal.train(config)
    before, after = (ViTForImageClassification.from_pretrained(folder).state_dict() for folder in (start, found.folder))
    assert all(before[name].equal(after[name]) for name in before if name.startswith("vit."))
    assert not before["classifier.weight"].equal(after["classifier.weight"])


def test_bf16_and_fp16_come_close_to_fp32(pictures: Path, tmp_path: Path) -> None:
    still = {**VIT, "config": {**VIT["config"], "hidden_dropout_prob": 0.0}}
    full, *halves = (
        trimodal.train(make_config(pictures, tmp_path / precision, model=still, precision=precision, steps=6))
        for precision in ("fp32", "bf16", "fp16")
    )
    expected = [line["loss"] for line in full.curves if "loss" in line]
    for half in halves:
        losses = [line["loss"] for line in half.curves if "loss" in line]
        assert losses == pytest.approx(expected, abs=0.02)
        assert losses != expected  # which Accelerate's own fp16 gives on a processor: it computes in float32 without a word
        assert ViTForImageClassification.from_pretrained(half.folder).dtype == torch.float32


def test_small_gradients_do_not_vanish_in_fp16(pictures: Path, tmp_path: Path) -> None:
    found = trimodal.train(make_config(pictures, tmp_path / "out", precision="fp16", steps=8, checkpoint_every=4))
    assert all(line["grad_norm"] > 0 for line in found.curves if "loss" in line)


def test_a_slow_precision_is_said_to_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    def say(precision: Literal["fp32", "bf16", "fp16"], *known: str) -> str:
        monkeypatch.setattr("trimodal.training.settings.detect_processor", lambda: ("", known))
        return check_precision(EngineSettings(1, precision=precision))

    assert say("bf16", "avx2", "avx512f") == (
        "bf16 will be slower than fp32 here: this processor has neither AMX nor AVX-512 for bf16; it saves memory only"
    )
    assert say("fp16", "avx512_bf16").startswith("fp16 will be slower than fp32 here: this processor has neither AMX for fp16 nor")
    assert say("bf16", "avx512_bf16") == say("fp16", "amx_fp16") == say("fp32") == ""
    with pytest.raises(InputError, match="precision is fp16, whose loss scaling does not know of parts of a model"):
        check_precision(EngineSettings(1, precision="fp16", fsdp=True))


@pytest.mark.parametrize("name", ["whisper", "wav2vec2"])
def test_transcription_is_measured_in_words(name: str, tmp_path: Path) -> None:
    folder = write_miniature(name, tmp_path / name)
    make_tokenizer().save_pretrained(folder)
    data = write_miniature_data(tmp_path / "data", 12, ["audio"])
    config = make_config(data, tmp_path / "out", model=str(folder), task="transcribe", steps=2, batch=4)
    found = trimodal.train(config)
    model = open_model(found.folder)
    held_out = split_calibration_and_held_out(read_samples(str(data)), 0, 0.25)[1]
    objective = make_objective("transcribe", model, held_out, part=4)
    batch = objective.encode(list(enumerate(held_out)))
    said = transcribe(model, {key: value for key, value in batch.items() if key != "labels"})
    wanted = [sample.target or "" for sample in held_out]
    assert found.metrics["word_error_rate"] == pytest.approx(compute_word_error_rate(said, wanted))
    assert ("token_accuracy" in found.metrics) == (name == "whisper")


def make_small_autoencoder() -> torch.nn.Module:
    """Named by a configuration as package.module:function."""
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 3, 3, padding=1))


def test_a_module_of_ones_own_and_rows_in_memory(tmp_path: Path) -> None:
    rows = [{"input": torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(number))} for number in range(20)]
    config = {"model": make_small_autoencoder, "task": "reconstruct", "epochs": 10, "batch": 5, "learning_rate": 1e-2, "track": "none"}
    found = trimodal.train(config, data=rows, out=tmp_path / "out")
    assert found.steps == 36  # 18 samples, of which 5 make a step, ten times
    before = next(line["eval_loss"] for line in found.curves if line["step"] == 0)
    assert found.metrics["loss"] < before
    module = make_small_autoencoder()
    load_model(module, str(found.folder / "model.safetensors"))

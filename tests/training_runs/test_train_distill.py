"""`train` with a teacher, end to end on miniatures: what is learned and kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import distil, list_losses

import trimodal
from trimodal.data import encode_samples, read_samples
from trimodal.errors import DataError
from trimodal.formats import open_model
from trimodal.networks.tiny import write_miniature, write_miniature_data
from trimodal.training_runs.students import cut_student


def test_a_student_that_is_its_teacher_has_nothing_to_learn(pictures: Path, vit: Path, tmp_path: Path) -> None:
    all_terms = {"logits": 1, "features": 1, "attentions": 1, "relations": 1, "at": "all", "stored": "fp32"}
    found = trimodal.train(distil(pictures, tmp_path / "out", vit, {"student_of": "teacher"}, steps=1, frozen_noise=True, **all_terms))
    assert list_losses(found)[0] == pytest.approx(0, abs=1e-6)
    assert found.curves[0]["eval_loss"] == pytest.approx(0, abs=1e-6)


def test_outputs_are_kept_once_and_say_what_the_teacher_says(pictures: Path, vit: Path, tmp_path: Path) -> None:
    terms = {"logits": 1.0, "labels": 0.5, "features": 1.0, "relations": 1.0, "stored": "fp32"}
    live = trimodal.train(distil(pictures, tmp_path / "live", vit, cache="none", **terms))
    told: list[str] = []
    cache = str(tmp_path / "cache")
    first = trimodal.train(distil(pictures, tmp_path / "first", vit, cache=cache, **terms), tell=told.append)
    assert any("the teacher's outputs of 48 samples: about" in line and " MB in " in line for line in told)
    assert list_losses(first) == pytest.approx(list_losses(live), rel=1e-5)
    again = trimodal.train(distil(pictures, tmp_path / "again", vit, cache=cache, **terms), tell=told.append)
    assert any("the teacher's outputs are there already" in line for line in told)
    assert (first.folder / "model.safetensors").read_bytes() == (again.folder / "model.safetensors").read_bytes()
    (folder,) = (tmp_path / "cache").iterdir()
    stored = load_file(folder / "outputs-00000.safetensors")
    model = open_model(vit)
    samples = read_samples(str(pictures))
    with torch.no_grad():
        scores = model.module(**encode_samples(model, samples)).logits
    train = json.loads((first.folder / "training.json").read_text())
    assert train["teacher"]["class"] == "ViTForImageClassification" and train["teacher"]["labelled"] == 36
    assert stored["logits.logits"].shape == (48, 2) and stored["logits.logits#"].tolist() == [1] * 48
    rows = {tuple(round(value, 4) for value in row) for row in scores.tolist()}
    assert {tuple(round(value, 4) for value in row) for row in stored["logits.logits"].tolist()} == rows


def test_other_outputs_are_asked_for_when_anything_changes(pictures: Path, vit: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def run(name: str, data: Any = pictures, teacher: Path = vit, **more: Any) -> None:
        trimodal.train(distil(data, tmp_path / name, teacher, cache=str(cache), logits=1, steps=1, evaluate_every=0, **more))

    run("a")
    run("c", learning_rate=1e-2, temperature=5.0)  # nothing that the teacher says changes
    bare = [{"image": str(sample.image), "target": sample.target} for sample in read_samples(str(pictures))]
    trimodal.train(distil(pictures, tmp_path / "b", vit, cache=str(cache), logits=1, steps=1), data=bare)  # nor do labels matter to it
    known = len(list(cache.iterdir()))
    assert known == 1
    for change in ({"stored": "fp32"}, {"features": 1}, {"teacher": write_miniature("vit", tmp_path / "other", seed=1)},
                   {"data": write_miniature_data(tmp_path / "data", 12, ["image"], seed=4)}, {"top": 1}):  # fmt: skip
        run(f"d{known}", **change)
        known += 1
        assert len(list(cache.iterdir())) == known, change


def test_fewer_scores_of_words(tmp_path: Path) -> None:
    rows = write_miniature_data(tmp_path / "data", 24, ["text"])
    teacher = write_miniature("roberta", tmp_path / "roberta")
    words = open_model(teacher).module.config.vocab_size
    losses = {}
    for top in (0, 4, words - 1):  # with all but one, the rest is that one
        config = distil(rows, tmp_path / f"top{top}", teacher, task="imitate", logits=1, top=top, stored="fp32", steps=2)
        losses[top] = list_losses(trimodal.train(config))
    assert 0 < losses[4][0] < losses[0][0]
    assert losses[words - 1] == pytest.approx(losses[0], rel=1e-3)


def test_unlabelled_rows_learn_from_the_teacher_alone(pictures: Path, vit: Path, tmp_path: Path) -> None:
    rows = [{"image": str(sample.image), "label": sample.label} for sample in read_samples(str(pictures))]
    bare = [{key: value for key, value in row.items() if key != "label"} for row in rows]
    config = distil(pictures, tmp_path / "bare", vit, logits=1)
    found = trimodal.train(config, data=bare)
    assert list_losses(found)[-1] < list_losses(found)[0] and set(found.metrics) == {"loss"}
    some = trimodal.train(distil(pictures, tmp_path / "some", vit, logits=1, labels=1), data=[*bare[:40], *rows[40:]])
    record = json.loads((some.folder / "training.json").read_text())
    assert 0 < record["teacher"]["labelled"] < 36
    with pytest.raises(DataError, match="no line of the data has a label"):
        trimodal.train(distil(pictures, tmp_path / "none", vit, logits=1, labels=1), data=bare)


def test_labels_that_are_absent_add_nothing(pictures: Path, vit: Path, tmp_path: Path) -> None:
    """Of eight samples of which two have a label, the labels' part is that of the two, over eight."""
    rows = [{"image": str(sample.image), "label": sample.label, "split": "train"} for sample in read_samples(str(pictures))[:8]]
    bare = [{key: value for key, value in row.items() if key != "label"} for row in rows[2:]]
    first = {}
    for labels in (0.0, 4.0):
        config = distil(pictures, tmp_path / f"w{labels}", vit, logits=1, labels=labels, steps=1, frozen_noise=True, evaluate_every=0)
        first[labels] = list_losses(trimodal.train(config, data=[*rows[:2], *bare]))[0]
    student = cut_student(open_model(vit), 1, None, None, [], "t")
    samples = read_samples(rows[:2])
    with torch.no_grad():
        scores = student.module(**encode_samples(student, samples)).logits
    own = torch.nn.functional.cross_entropy(scores, torch.tensor([row["label"] for row in rows[:2]]), reduction="sum")
    assert first[4.0] - first[0.0] == pytest.approx(4 * float(own) / 8, rel=1e-4)


def test_parts_of_a_step_and_half_precision(pictures: Path, vit: Path, tmp_path: Path) -> None:
    rows = [{"image": str(sample.image), "label": sample.label} for sample in read_samples(str(pictures))]
    some = [{key: value for key, value in row.items() if key != "label" or at % 3} for at, row in enumerate(rows)]
    terms: dict[str, Any] = {"logits": 1, "labels": 1, "features": 1, "relations": 1, "frozen_noise": True, "steps": 3}
    losses = {}
    for name, more in {"whole": {}, "parts": {"accumulate": 4}, "half": {"precision": "bf16"}}.items():
        config = distil(pictures, tmp_path / name, vit, cache=str(tmp_path / "cache"), **terms, **more)
        losses[name] = list_losses(trimodal.train(config, data=some))
    assert losses["parts"] == pytest.approx(losses["whole"], rel=1e-4)
    assert losses["half"] == pytest.approx(losses["whole"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "terms"), [("retrieve", {"labels": 1, "affinity": 1}), ("imitate", {"features": 1, "relations": 1})])
def test_two_processes_have_the_loss_curve_of_one(task: str, terms: dict[str, int], pairs: Path, clip: Path, tmp_path: Path) -> None:
    """Similarities are those of all pairs of a step, and heads that no term looks at keep nobody waiting."""
    alone = trimodal.train(distil(pairs, tmp_path / "one", clip, task=task, **terms))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(distil(pairs, tmp_path / "two", clip, task=task, **terms)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "trimodal", "train", str(config)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    together = [json.loads(line) for line in (tmp_path / "two" / "curves.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in together if "loss" in line] == pytest.approx(list_losses(alone), abs=1e-5)

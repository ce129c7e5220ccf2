"""Students made of their teachers, the teacher's own answers, and what is refused before anything is trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SIZES, STUDENT, distil, list_losses
from transformers import CLIPModel, ViTForImageClassification

import trimodal
from trimodal.data import encode_samples, read_samples
from trimodal.errors import InputError, RecipeError
from trimodal.formats import open_model
from trimodal.networks.tiny import make_miniature, write_miniature, write_miniature_data
from trimodal.training_runs.students import cut_student, spread_blocks


def test_students_of_layers_and_of_width(pairs: Path, clip: Path) -> None:
    samples = read_samples(str(pairs))
    before = CLIPModel.from_pretrained(clip).state_dict()
    whole = cut_student(open_model(clip), {"text": [0, 1]}, None, None, samples, "t").module.state_dict()
    assert all(torch.equal(before[name], value) for name, value in whole.items())
    last = cut_student(open_model(clip), {"image": [1]}, None, None, samples, "t").module
    assert last.config.vision_config.num_hidden_layers == 1 and last.config.text_config.num_hidden_layers == 2
    path = "vision_model.encoder.layers.{}.mlp.fc1.weight"
    assert torch.equal(last.state_dict()[path.format(0)], before[path.format(1)])
    half = cut_student(open_model(clip), None, 0.5, None, samples, "t").module
    vision = half.config.vision_config
    assert (vision.hidden_size, vision.num_attention_heads, vision.intermediate_size) == (16, 2, 32)
    assert spread_blocks(3, 12) == [0, 6, 11] and spread_blocks(1, 5) == [0] and spread_blocks(5, 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("name", "width"), [("roberta", 0.5), ("llama", 0.5), ("qwen3", 0.5), ("whisper", None), ("bert", None)])
def test_smaller_students_of_other_families(name: str, width: float | None, tmp_path: Path) -> None:
    folder = write_miniature(name, tmp_path / name)
    data = write_miniature_data(tmp_path / "data", 6, ["audio" if name == "whisper" else "text"])
    samples = read_samples(str(data))
    found = cut_student(open_model(folder), 1, width, None if width else 0.5, samples, "t")
    if width is None:  # its convolutions, and what a bare encoder hands out, are as wide as they are
        with pytest.raises(RecipeError, match=r"leave width out|give neurons instead"):
            cut_student(open_model(folder), 1, 0.5, None, samples, "t")
    batch = encode_samples(found, samples[:2])
    with torch.no_grad():
        result = found.module(**batch)
    assert all(bool(value.isfinite().all()) for value in result.values() if isinstance(value, torch.Tensor))
    teacher = make_miniature(name)
    sizes = [sum(p.numel() for p in module.parameters()) for module in (found.module, teacher)]
    assert sizes[0] < 0.75 * sizes[1]


def test_the_important_neurons_stay(vit: Path, pictures: Path) -> None:
    """Neurons that do nothing go first, and the student says what the teacher says."""
    teacher = open_model(vit)
    with torch.no_grad():
        for block in teacher.module.vit.layers if hasattr(teacher.module.vit, "layers") else teacher.module.vit.encoder.layer:
            down = next(part for part in block.modules() if isinstance(part, torch.nn.Linear) and part.in_features > part.out_features)
            down.weight[:, ::2] = 0
    samples = read_samples(str(pictures))
    batch = encode_samples(teacher, samples[:4])
    with torch.no_grad():
        expected = teacher.module(**batch).logits
    student = cut_student(teacher, None, None, 0.5, samples, "t")
    with torch.no_grad():
        found = student.module(**batch).logits
    assert torch.allclose(found, expected, atol=1e-4)


def test_two_encoders(pairs: Path, clip: Path, tmp_path: Path) -> None:
    narrow = {"student_of": "teacher", "width": 0.5, "layers": {"text": 1}}
    terms: dict[str, Any] = {"labels": 1, "affinity": 1, "embeddings": 1, "features": 1, "attentions": 0, "relations": 1}
    found = trimodal.train(distil(pairs, tmp_path / "out", clip, narrow, task="retrieve", steps=4, **terms))
    assert list_losses(found)[-1] < list_losses(found)[0]
    assert CLIPModel.from_pretrained(found.folder).config.text_config.num_hidden_layers == 1


@pytest.mark.parametrize(
    ("name", "task", "kind"), [("whisper", "transcribe", "audio"), ("llama", "generate", "text"), ("t5", "generate", "text")]
)
def test_the_teachers_own_answers(name: str, task: str, kind: str, tmp_path: Path) -> None:
    folder = write_miniature(name, tmp_path / name)
    data = write_miniature_data(tmp_path / "data", 12, [kind])
    rows = [{kind: str(getattr(sample, kind)), "split": "test" if at > 8 else "train"} for at, sample in enumerate(read_samples(str(data)))]
    terms: dict[str, Any] = {"labels": 1, "logits": 1, "sequence": "greedy", "longest": 5, "cache": str(tmp_path / "cache"), "batch": 4}
    told: list[str] = []
    config = distil(data, tmp_path / "out", folder, {"from": str(folder)}, task=task, steps=2, **terms)
    found = trimodal.train(config, data=rows, tell=told.append)
    assert any("the teacher's own answers are what is learned" in line for line in told)
    answers = [json.loads(path.read_text()) for path in (tmp_path / "cache").glob("answers-*.json")]
    assert any(len(one) == 9 for one in answers)
    assert all(loss > 0 for loss in list_losses(found))


def test_what_does_not_fit_is_said_before_training(pictures: Path, pairs: Path, vit: Path, clip: Path, tmp_path: Path) -> None:
    def refused(message: str, data: Path = pictures, teacher: Path = vit, model: Any = STUDENT, **more: Any) -> None:
        with pytest.raises(InputError, match=message):
            trimodal.train(distil(data, tmp_path / "out", teacher, model, **more))

    side = {"image": {"class": "ViTImageProcessor", "size": {"height": 16, "width": 16}}}
    small = {**SIZES, "image_size": 16, "patch_size": 4}
    other = {"class": "ViTForImageClassification", "config": small, "processors": side}
    coarse = {**other, "config": {**small, "patch_size": 8}}
    many = {**other, "config": {**small, "num_labels": 5}}
    refused("distill gives no term a weight; give one of labels, logits", logits=0)
    refused(r"features\..* of the teacher has \d+ tokens of a sample, features\..* of the student 5", model=coarse, features=1)
    refused(r"is 32 wide, .* of the student 16; give distill.projection: auto", model=other, features=1, projection="never")
    refused(r"distill.attentions: .* of the teacher has 4 heads, .* of the student 2; use relations", model=other, attentions=1)
    refused(r"scores 2 classes or words in logits, the student .* 5; expected the same", model=many, logits=1)
    refused(r"distill.layers gives \[4\] for image, where the student has 1 blocks and the teacher 2", features=1, layers=[4])
    refused(r"distill.affinity needs embeddings of two modalities, such as CLIPModel's; the teacher \(ViTForImage", affinity=1)
    refused(r"distill.embeddings: teacher and student have no embedding in common; ViTForImageClassification gives none", embeddings=1)
    refused(r"distill.relation_heads is 5, which does not divide the query widths 32", relations=1, relation_heads=5)
    refused(r"model.layers is 7, but image of the teacher has 2 blocks", model={"student_of": "teacher", "layers": 7}, logits=1)
    refused(r"model.layers names txt, but the teacher has image", model={"student_of": "teacher", "layers": {"txt": 1}}, logits=1)
    refused(r"distill.top is 9, but the teacher has 2 scores in logits.logits", logits=1, top=9)
    refused(r"distill.layers is 'middle', but must be uniform, last, a list of the teacher's block numbers", logits=1, layers="middle")
    refused("model.layers is 'x', but must be a number of blocks, a list", model={"student_of": "teacher", "layers": "x"}, logits=1)
    refused("distill.sequence is for task: transcribe or generate, not classify", logits=1, sequence="greedy")
    refused(r"distill.logits: teacher and student have no logits in common; CLIPModel gives none", pairs, clip, task="retrieve", logits=1)
    refused(r"distill.assistants\[0\] has no model", logits=1, assistants=[{"steps": 3}])
    refused(r"assistants\[0\] says output, which is that of all rounds", logits=1, assistants=[{"model": STUDENT, "output": "x"}])
    with pytest.raises(InputError, match="is the teacher's own folder; give another output"):
        trimodal.train(distil(pictures, vit, vit, logits=1), force=True)
    assert not list(tmp_path.glob("out*"))


def test_the_command_line(pictures: Path, vit: Path, tmp_path: Path) -> None:
    config = tmp_path / "distill.json"
    config.write_text(json.dumps(distil(pictures, tmp_path / "out", vit, {"student_of": "teacher", "width": 0.5}, logits=1, labels=0.5)))
    command = [sys.executable, "-m", "trimodal", "train", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "teacher's outputs of 48 samples" in said and "written:" in said
    assert ViTForImageClassification.from_pretrained(tmp_path / "out").config.hidden_size == 16

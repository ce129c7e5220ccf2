"""What the tests of `train` share: a small model and the configuration of a short run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimodal.training_runs.distill_keys import DistillKeys

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIT = {
    "class": "ViTForImageClassification",
    "config": {**SIZES, "image_size": 16, "patch_size": 8, "hidden_dropout_prob": 0.1},
    "processors": {"image": {"class": "ViTImageProcessor", "size": {"height": 16, "width": 16}}},
}
DINO = {
    "class": "Dinov2ForImageClassification",
    "config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 16, "patch_size": 8},
    "processors": VIT["processors"],
}
STUDENT = {"student_of": "teacher", "layers": 1}


def make_config(pictures: Path, out: Path, **more: Any) -> dict[str, Any]:
    """Twelve steps of `VIT` on `pictures`, into `out`."""
    return {
        "model": VIT, "data": str(pictures), "task": "classify", "steps": 12, "batch": 8, "learning_rate": 1e-3, "held_out": 0.25,
        "output": str(out), "track": "none", **more,
    }  # fmt: skip


def distil(data: Path, out: Path, teacher: Path | str, model: Any = STUDENT, **more: Any) -> dict[str, Any]:
    """The configuration of six steps with `teacher`; what `distill` may hold stands there, all else is the run's."""
    terms = {key: more.pop(key) for key in list(more) if key in DistillKeys.model_fields}
    return make_config(data, out, model=model, steps=more.pop("steps", 6), distill={"teacher": str(teacher), **terms}, **more)


def list_losses(found: Any) -> list[float]:
    return [line["loss"] for line in found.curves if "loss" in line]

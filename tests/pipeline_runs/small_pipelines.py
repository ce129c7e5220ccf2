"""What the tests of pipelines share: one of a few steps."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16, "patch_size": 8}
STAGES = ("0-train", "1-prune", "2-distill", "3-quantize", "4-distill")


def make_pipeline(pictures: Path, out: Path, bits: int = 8, **train: Any) -> dict[str, Any]:
    """Train, prune, distil, quantize, recover, on `pictures`, into `out`."""
    return {
        "data": str(pictures),
        "output": str(out),
        "train": {
            "model": {
                "class": "ViTForImageClassification", "config": SIZES,
                "processors": {"image": {"class": "ViTImageProcessor", "size": {"height": 16, "width": 16}}},
            },
            "task": "classify", "steps": 6, "batch": 8, "track": "none", **train,
        },
        "compress": {"recipe": {"steps": [
            {"prune.neurons": {"where": "*", "sparsity": 0.25}},
            {"distill": {"steps": 3, "batch": 8}},
            {"quantize.rtn": {"where": "*", "optional": True, "bits": bits}},
            {"distill": {"steps": 3, "batch": 8}},
        ]}},
    }  # fmt: skip


def digest_weights(folder: Path) -> str:
    """sha256 of the artifact's weights."""
    return hashlib.sha256((folder / "trimodal.safetensors").read_bytes()).hexdigest()

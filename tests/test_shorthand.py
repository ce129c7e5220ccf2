"""What the field calls a step."""

from __future__ import annotations

from typing import Any

import pytest

from trimodal.catalogue import list_method_rows
from trimodal.shorthand import short_name_of


@pytest.mark.parametrize(
    ("method", "config", "name"),
    [
        ("quantize.rtn", {"bits": 8, "group": "channel", "grid": "positive"}, "W8A16"),
        ("quantize.rtn", {"bits": 8, "group": "channel", "grid": "symmetric"}, "W8A16 signed"),
        ("quantize.rtn", {"bits": 8, "group": "tensor", "grid": "positive"}, "W8A16 per-tensor"),
        ("quantize.gptq", {"bits": 4, "group": 64, "grid": "positive"}, "W4A16 g64"),
        ("quantize.gptq", {"bits": 4, "group": 128, "grid": "asymmetric"}, "W4A16 asymmetric g128"),
        ("quantize.gptq", {"bits": 4, "group": 64, "grid": "nf"}, "W4A16 NF4 g64"),
        ("quantize.awq", {"bits": 3, "group": "channel", "grid": "kmeans"}, "W3A16 k-means"),
        ("quantize.smooth", {"bits": 8, "activation_bits": 8, "group": "channel", "mode": "static"}, "W8A8 static"),
        ("quantize.smooth", {"bits": 4, "activation_bits": 8, "group": 32, "mode": "token"}, "W4A8 g32 dynamic"),
        ("quantize.entropy", {"bits": 3.1}, "3.1 bits/weight, entropy-coded"),
        ("prune.wanda", {"sparsity": 0.5, "kept": 2, "of": 4}, "2:4"),
        ("prune.magnitude", {"sparsity": 0.9}, "90 % unstructured"),
        ("prune.sparsegpt", {"sparsity": 0.5, "kept": 2, "of": 4, "bits": 4, "group": 64}, "2:4 + W4A16 g64"),
        ("prune.heads", {"sparsity": 0.25}, "25 % structured (attention heads)"),
        ("factorize.eigen", {"sparsity": 0.5, "rank": 8}, "low rank r=8"),
        ("factorize.svd", {"energy": 0.9, "alpha": 0.5}, "ASVD at 90 % energy"),
        ("share.layers", {"times": 2, "rank": 4}, "weight sharing ×2 + LoRA r=4"),
        ("merge.tokens", {"share": 0.5, "kind": "matching"}, "ToMe 50 %"),
        ("prune.tokens", {"share": 0.5, "by": "attention"}, "VisionZip 50 %"),
        ("prune.tokens", {"share": 0.75, "by": "question", "block": 2}, "FastV 75 %"),
        ("distill", {"steps": 300}, "KD, 300 steps"),
        ("train.quantized", {"steps": 100}, "QAT, 100 steps"),
        ("distill.lora", {"rank": 4, "steps": 100}, "LoRA r=4, 100 steps"),
        ("distill.lora", {"dora": True}, "DoRA r=8, 300 steps"),
        ("nobody.knows", {}, ""),
    ],
)
def test_names(method: str, config: dict[str, Any], name: str) -> None:
    assert short_name_of(method, config) == name


def test_every_method_has_one() -> None:
    for row in list_method_rows():
        assert short_name_of(row["name"], {option["name"]: option["default"] for option in row["options"]}), row["name"]

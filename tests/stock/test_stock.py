"""Stock Transformers knows our artifacts after `import trimodal`, in any order (fresh processes: see e2e), and as any class."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.utils.logging import disable_progress_bar

from trimodal import load, pipeline
from trimodal.formats.reload_check import collect_outputs
from trimodal.networks.tiny import make_miniature_batch, write_miniature, write_miniature_data
from trimodal.stock import _RegistrationFinder, quantizer, register_with_transformers

CASES = {
    "llama": ("text", "AutoModel", "AutoModelForCausalLM"),
    "whisper": ("audio text", "AutoModel"),
    "vit": ("image", "AutoModel", "AutoModelForImageClassification"),
    "dinov2": ("image", "AutoModel", "AutoModelForImageClassification"),
    "bert": ("text", "AutoModel", "AutoModelForSequenceClassification"),
    "clip": ("image text", "AutoModel"),
    "fusion": ("image audio text", "AutoModel"),
}
RECIPE = {
    "steps": [
        {"prune.neurons": {"where": "*", "sparsity": 0.5}},
        {"prune.heads": {"where": "*", "sparsity": 0.5}},
        {"factorize.eigen": {"where": "*.1.*", "rank": 4}},
        {"quantize.rtn": {"where": "*", "bits": 8}},
    ]
}


@pytest.mark.parametrize("name", CASES)
def test_every_class_loads_what_it_shares_with_the_saved_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    disable_progress_bar()
    modalities, *kinds = CASES[name]
    data = write_miniature_data(tmp_path / "data", 8, modalities.split())
    pipeline.compress(write_miniature(name, tmp_path / "model"), RECIPE, data, tmp_path / "out")
    batch = make_miniature_batch(name, 2)
    ours: Any = load(tmp_path / "out")
    expected = collect_outputs(ours.base_model, batch)
    for kind in kinds:
        found = getattr(transformers, kind).from_pretrained(tmp_path / "out").eval()
        same = collect_outputs(found.base_model, batch)
        shared = expected.keys() & same.keys() - ({"pooler_output"} if name == "vit" else set())
        assert shared and all(torch.equal(expected[key], same[key]) for key in shared), kind


def test_registering_again_changes_nothing() -> None:
    finders = list(sys.meta_path)
    register_with_transformers()
    quantizer.register()
    assert sys.meta_path == finders and sum(isinstance(finder, _RegistrationFinder) for finder in finders) == 1
    assert AUTO_QUANTIZER_MAPPING["trimodal"] is quantizer.TrimodalQuantizer
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["trimodal"] is quantizer.TrimodalConfig


def test_finder_leaves_other_modules_alone() -> None:
    finder = _RegistrationFinder()
    assert finder.find_spec("json") is None and finder.find_spec("transformers.models.clip") is None

"""What stock Transformers' loader is told of an artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertModel

from trimodal import pipeline
from trimodal.layers import CodedWeight
from trimodal.networks.tiny import write_miniature


def test_no_weight_is_decoded_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    pipeline.compress(write_miniature("bert", tmp_path / "bert"), "int8", None, tmp_path / "out")
    decoded = []
    monkeypatch.setattr(CodedWeight, "forward", lambda self: decoded.append(self.shape) or torch.zeros(self.shape))
    BertModel.from_pretrained(tmp_path / "out")
    assert not decoded
    headed = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", num_labels=3)
    assert not decoded
    assert headed.classifier.weight.isfinite().all() and headed.classifier.weight.abs().max() > 0

"""Weights that several layers share are stored once, whatever form they are kept in, and come back shared."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import trimodal
from trimodal.core import Plan
from trimodal.edits.apply import dequantize_module_
from trimodal.errors import RecipeError
from trimodal.formats import open_model, pack_weights_, write_artifact
from trimodal.formats.reload_check import collect_outputs
from trimodal.layers import is_weight_parametrized
from trimodal.manifest import weights_name_of
from trimodal.models.model import Model
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.networks.tiny import make_miniature_batch, write_miniature

TOWER = {"quantize.rtn": {"bits": 3, "grid": "kmeans", "table": "tower"}}
PRUNED: Mapping[str, Any] = {"prune.magnitude": {"sparsity": 0.5}}
FORMS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "plain": [{"distill": {"steps": 1}}],
    "quantized": [{"quantize.rtn": {"bits": 4}}],
    "pruned": [PRUNED, {"distill": {"steps": 1}}],
    "integers": [{"quantize.entropy": {"bits": 3}}],
    "codebook": [{"quantize.rtn": {"bits": 3, "grid": "kmeans"}}, {"distill": {"steps": 1}}],
    "table of the tower": [TOWER, {"distill": {"steps": 1}}],
    "pruned, table of the tower": [PRUNED, TOWER],
    "others factorised": [{"factorize.eigen": {"sparsity": 0.5}}, {"quantize.rtn": {}}],
}
KINDS = {
    "plain": "dense", "quantized": "quantized", "pruned": "sparse", "integers": "integers", "others factorised": "quantized",
}  # fmt: skip


def pairs(model: Model) -> list[tuple[str, str]]:
    return [(site.path, tied) for site in model.layout.sites for tied in site.tied]


def one_weight(module: nn.Module, path: str, tied: str) -> bool:
    """Whether both layers have one store, or one parameter."""
    one, other = module.get_submodule(path), module.get_submodule(tied)
    return one.stored is other.stored if is_weight_parametrized(one) else one.weight is other.weight


@pytest.mark.parametrize(("name", "form"), [*(("llama", form) for form in FORMS), ("whisper", "pruned, table of the tower")])
def test_tied_embedding_and_head(compressed: Any, tmp_path: Path, name: str, form: str) -> None:
    done = compressed(name, FORMS[form])
    out, source = tmp_path / "out", write_miniature(name, tmp_path / "source")
    out.mkdir()
    write_artifact(replace(done.model, folder=source), done.plan, out, None)
    with safe_open(out / weights_name_of(out), framework="pt") as opened:
        names = list(opened.keys())
    if form in ("quantized", "pruned", "table of the tower"):
        pytest.importorskip("constriction")
        pack_weights_(out)
    again, expected = open_model(out), collect_outputs(done.model.module, make_miniature_batch(name, 2))
    ((path, tied),) = pairs(again)
    assert again.layout.get_site(path).stored == KINDS.get(form, "codebook")
    assert not [key for key in names if key.startswith(f"{tied}.")]
    for model in (done.model, again, replace(again, module=copy.deepcopy(again.module))):
        assert one_weight(model.module, path, tied)
        assert tensor_bytes(unique_tensors(model.module).values()) == done.plan.expected_tensor_bytes
        assert equal(collect_outputs(model.module, make_miniature_batch(name, 2)), expected)
    dequantize_module_(again.module)
    assert again.module.get_submodule(path).weight is again.module.get_submodule(tied).weight


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_tied_weight_is_not_factorised(compressed: Any) -> None:
    for method in ("factorize.eigen", "factorize.svd"):
        with pytest.raises(RecipeError, match=r"text.embedding: .*lm_head"):
            compressed("llama", [{method: {"where": "text.embedding", "sparsity": 0.5}}])


class Crossed(nn.Module):
    """Image and text meet in one matrix, and two neighbouring layers are one."""

    modalities = ("image", "text")

    def __init__(self) -> None:
        super().__init__()
        self.image_in, self.text_in = nn.Linear(12, 16), nn.Linear(12, 16)
        self.image_out, self.text_out = nn.Linear(16, 16, bias=False), nn.Linear(16, 16)
        self.text_in.weight = self.image_in.weight
        self.text_out.weight = self.image_out.weight

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.image_out(self.image_in(x).relu())
        text: Tensor = self.text_out(self.text_in(x).relu())
        return image + text


def crossed() -> Crossed:
    torch.manual_seed(3)
    return Crossed()


@pytest.mark.parametrize("form", ["quantized", "pruned", "codebook", "table of the tower", "pruned, table of the tower"])
def test_tied_across_towers_of_any_module(tmp_path: Path, form: str) -> None:
    """What trains is left out: a module of one's own is not calibrated here."""
    steps = [step for step in FORMS[form] if "distill" not in step]
    model, plan = carried_out(steps)
    write_artifact(model, plan, tmp_path, "here:crossed")
    again: Any = trimodal.load(tmp_path, factory=crossed)
    x = torch.randn(2, 12)
    assert torch.equal(again(x), model.module(x))
    assert len(pairs(model)) == 2 and all(one_weight(again, *pair) for pair in pairs(model))
    assert tensor_bytes(unique_tensors(again).values()) == plan.expected_tensor_bytes


def carried_out(steps: Sequence[Mapping[str, Any]]) -> tuple[Model, Plan]:
    from trimodal.compression import compress_
    from trimodal.core import Calibration, Source
    from trimodal.loading.load import build_model
    from trimodal.planning import plan_edits, read_recipe

    model = build_model(crossed(), "crossed")
    edits, after = plan_edits(model.layout, read_recipe({"steps": list(steps)}), False)
    total = tensor_bytes(unique_tensors(model.module).values())  # a tied layer's bias stands at no site
    total += sum(site.stored_bytes for site in after.sites) - sum(site.stored_bytes for site in model.layout.sites)
    plan = Plan(0, Source("crossed", "generic", "", 0, 0), Calibration(0, None, (), "modality"), edits, total)
    compress_(model, plan, [], [])
    return model, plan


def test_the_base_of_a_model_has_the_table_too(compressed: Any, tmp_path: Path) -> None:
    from transformers import AutoModel

    done = compressed("llama", [TOWER])
    out = tmp_path / "out"
    out.mkdir()
    write_artifact(replace(done.model, folder=write_miniature("llama", tmp_path / "source")), done.plan, out, None)
    base: Any = AutoModel.from_pretrained(out)
    ids = make_miniature_batch("llama", 2)
    expected = done.model.module.model(**ids).last_hidden_state  # type: ignore[operator]
    assert torch.equal(base.eval()(**ids).last_hidden_state, expected)

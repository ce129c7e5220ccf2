"""How weights are decoded in what `load` and stock Transformers give, and that nothing keeps them while they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModel

import trimodal
from trimodal import pipeline
from trimodal.formats import open_model
from trimodal.formats.stock_load_check import collect_outputs
from trimodal.layers import count_kept_bytes, set_dequantize_policy_
from trimodal.layers.kept_weight import WeightKeeper
from trimodal.loading.load import load_from_factory
from trimodal.networks.tiny import make_miniature_batch, write_miniature

RECIPE = {"steps": [
    {"factorize.svd": {"where": "text.*.up", "rank": 8}}, {"quantize.rtn": {"where": "*", "bits": 8}},
]}  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
        trimodal.compress(write_miniature("clip", folder / "clip"), RECIPE, None, folder / "out")
    return folder / "out"


def policies_of(module: torch.nn.Module) -> set[str]:
    return {part.dequantize_policy for part in module.modules() if isinstance(part, WeightKeeper)}


def test_load_keeps_decoded_weights_unless_told_otherwise(out: Path) -> None:
    batch = make_miniature_batch("clip", 2)
    fast, small, plain = trimodal.load(out), trimodal.load(out, dequantize="memory"), trimodal.load(out, dequantize=True)
    assert policies_of(fast) == {"speed"} and policies_of(small) == {"memory"} == policies_of(trimodal.load(out, dequantize=False))
    assert not policies_of(plain) and count_kept_bytes(fast) == 0
    found = {name: collect_outputs(module, batch) for name, module in (("fast", fast), ("small", small))}
    assert all(torch.allclose(found["fast"][key], value, atol=1e-5) for key, value in found["small"].items())
    decoded = sum(layer.stored.shape.numel() for layer in fast.modules() if "stored" in layer._modules)  # type: ignore[union-attr, operator]
    assert count_kept_bytes(fast) == 4 * decoded and count_kept_bytes(small) == 0
    assert fast.state_dict().keys() == small.state_dict().keys()


@pytest.mark.parametrize("wrong", ["fast", "", None])
def test_load_names_the_policies(out: Path, wrong: Any) -> None:
    with pytest.raises(trimodal.InputError, match="expected speed, memory, or True for plain float layers"):
        trimodal.load(out, dequantize=wrong)


def test_transformers_own_door(out: Path) -> None:
    batch = make_miniature_batch("clip", 2)
    fast = AutoModel.from_pretrained(out).eval()
    config = transformers.AutoConfig.from_pretrained(out)
    config.quantization_config["dequantize"] = "memory"
    small = AutoModel.from_pretrained(out, config=config).eval()
    assert policies_of(fast) == {"speed"} and policies_of(small) == {"memory"}
    found, expected = collect_outputs(fast, batch), collect_outputs(trimodal.load(out), batch)
    assert all(torch.allclose(found[key], expected[key], atol=1e-5) for key in expected) and count_kept_bytes(fast) > 0
    set_dequantize_policy_(fast, "memory")
    assert policies_of(fast) == {"memory"} and count_kept_bytes(fast) == 0
    config.quantization_config["dequantize"] = "fast"
    with pytest.raises(trimodal.InputError, match="no policy for decoding is called 'fast'"):
        AutoModel.from_pretrained(out, config=config)


def test_what_is_worked_on_keeps_nothing(out: Path) -> None:
    """An artifact that is opened to be compressed further or verified, and a copy of a loaded model."""
    assert policies_of(open_model(out).module) == {"memory"}
    loaded = trimodal.load(out)
    collect_outputs(loaded, make_miniature_batch("clip", 2))
    again = load_from_factory(lambda: loaded, "again").module
    assert policies_of(again) == {"memory"} and policies_of(loaded) == {"speed"} and count_kept_bytes(again) == 0

"""Which cuts a model's own configuration can say, and what becomes of the artifact then."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.utils.logging import disable_progress_bar

from trimodal import load, pipeline
from trimodal.core import StockLoad
from trimodal.edits import CutUnits, MergeTokens, TreatWeight
from trimodal.edits.steps import read_steps
from trimodal.errors import IntegrityError
from trimodal.formats import open_model, run_stock_check, stock_support_of
from trimodal.formats.artifact import MODEL
from trimodal.formats.native_config import _explain_steps, _list_differences, find_native_config
from trimodal.formats.reload_check import collect_outputs
from trimodal.formats.side_files import read_verdict
from trimodal.loading.load import build_meta_model, read_config
from trimodal.models.families import family_of
from trimodal.models.files import OURS
from trimodal.networks.fusion import FusionModel
from trimodal.networks.tiny import make_miniature_batch, write_miniature, write_miniature_data
from trimodal.reporting.wording import describe_stock as words


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fresh processes have tests of their own."""
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    disable_progress_bar()


def cut(units: str, where: str = "*", sparsity: float = 0.5) -> dict[str, Any]:
    return {f"prune.{units}": {"where": where, "sparsity": sparsity, "score": "magnitude"}}


def compressed(name: str, folder: Path, *steps: dict[str, Any], pack: Any = "plain") -> Path:
    pipeline.compress(write_miniature(name, folder / name), {"steps": list(steps)}, None, folder / "out", pack=pack)
    return folder / "out"


def changes(before: dict[str, Any], after: dict[str, Any], at: str = "") -> dict[str, Any]:
    """What differs between two configurations, by dotted key."""
    found: dict[str, Any] = {}
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= changes(old, new, f"{at}{key}.")
        elif old != new:
            found[f"{at}{key}"] = new
    return found


SAID: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "llama both": (
        "llama", [cut("neurons", sparsity=0.75), cut("heads")],
        {"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1},
    ),
    "bert neurons": ("bert", [cut("neurons")], {"intermediate_size": 32}),
    "vit both": (
        "vit", [cut("neurons"), cut("heads")], {"intermediate_size": 32, "num_attention_heads": 2, "head_dim": 8},
    ),
    "dinov2 heads": ("dinov2", [cut("heads")], {"num_attention_heads": 2, "head_dim": 8}),
    "clip neurons, unlike": (
        "clip", [cut("neurons", "image.*"), cut("neurons", "text.*", 0.25)],
        {"vision_config.intermediate_size": 32, "text_config.intermediate_size": 48},
    ),
    "whisper both": (
        "whisper", [cut("neurons", "audio.*"), cut("neurons", "text.*", 0.75)],
        {"encoder_ffn_dim": 32, "decoder_ffn_dim": 16},
    ),
    "llava": (
        "llava", [cut("neurons", "image.*"), cut("neurons", "text.*", 0.75), cut("heads", "text.*")],
        {"vision_config.intermediate_size": 32, "text_config.intermediate_size": 16,
         "text_config.num_attention_heads": 2, "text_config.num_key_value_heads": 1},
    ),
    "clap, a ratio": ("clap", [cut("neurons", "audio.?.*")], {"audio_config.mlp_ratio": 2.0}),
    "resnet": ("resnet", [cut("channels")], {"embedding_size": 4, "hidden_sizes": [8, 16]}),
    "llama width and heads": (
        "llama", [cut("width", sparsity=0.25), cut("heads")],
        {"hidden_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1},
    ),
    "qwen3 width": ("qwen3", [cut("width", "text", 0.25)], {"hidden_size": 24}),
    "vit width": ("vit", [cut("width", sparsity=0.25)], {"hidden_size": 24, "head_dim": 8}),
    "ast width": ("ast", [cut("width", sparsity=0.25)], {"hidden_size": 24, "head_dim": 8}),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_what_a_configuration_can_say(case: str, tmp_path: Path) -> None:
    name, steps, expected = SAID[case]
    out = compressed(name, tmp_path, *steps)
    assert changes(read_config(tmp_path / name), read_config(out)) == expected
    assert read_steps(out / MODEL) == [] and stock_support_of(out) == StockLoad(True)
    batch = make_miniature_batch(name, 3)
    ours: Any = load(out)
    assert not hasattr(ours, "hf_quantizer")
    stock = getattr(transformers, type(ours).__name__).from_pretrained(out).eval()
    found, same = collect_outputs(ours, batch), collect_outputs(stock, batch)
    assert found and all(torch.equal(found[key], same[key]) for key in found)


def test_blocks_that_are_gone_are_said(tmp_path: Path) -> None:
    model, data = write_miniature("llama", tmp_path / "llama"), write_miniature_data(tmp_path / "data", 12, ("text",))
    recipe = {"steps": [{"prune.layers": {"sparsity": 0.5}}], "calibration": {"samples": 4}}
    out = pipeline.compress(model, recipe, data, tmp_path / "out").folder
    assert changes(read_config(model), read_config(out)) == {"num_hidden_layers": 1} and stock_support_of(out).alone
    batch = make_miniature_batch("llama", 3)
    stock = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    assert torch.equal(collect_outputs(load(out), batch)["logits"], collect_outputs(stock, batch)["logits"])


NOT_SAID: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "clip heads": ("clip", [cut("heads", "image.*")],
                   "CLIPConfig cannot say that vision_model.encoder.layers.0.self_attn.k_proj.bias is 16"),
    "bert heads": ("bert", [cut("heads")],
                   "BertConfig cannot say that encoder.layer.0.attention.output.dense.weight is 32 × 16"),
    "dinov2 neurons": (  # its `mlp_ratio` would do, but has to be a whole number
        "dinov2", [cut("neurons")], "Dinov2Config cannot say that dinov2.encoder.layer.0.mlp.fc1.bias is 32",
    ),
    "one block of two": ("llama", [cut("neurons", "text.1.*")],
                         "LlamaConfig cannot say that model.layers.1.mlp.down_proj.weight is 32 × 32"),
    "the projector": ("llava", [cut("neurons", "*.projector*")], "LlavaConfig cannot say that model.multi_modal_pro"),
    "some channels": ("resnet", [cut("channels", "image.0.*")], "ResNetConfig cannot say that"),
    "whisper width": ("whisper", [cut("width", "audio", 0.25)], "WhisperConfig cannot say that model.decoder.layers.0.enc"),
    "single weights": ("bert", [{"prune.magnitude": {"where": "*", "sparsity": 0.5}}], "weights are not plain tensors (sparse)"),
}  # fmt: skip


def unmarked(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what brings Transformers to trimodal, which stands in it and in each of its parts."""
    assert config["quantization_config"] == {"quant_method": "trimodal"}
    assert "import trimodal" in config["transformers_weights"]
    return {
        key: unmarked(value) if isinstance(value, dict) and "model_type" in value else value
        for key, value in config.items() if key not in ("quantization_config", "transformers_weights")
    }  # fmt: skip


@pytest.mark.parametrize("case", NOT_SAID)
def test_what_no_configuration_can_say(case: str, tmp_path: Path) -> None:
    name, steps, reason = NOT_SAID[case]
    out = compressed(name, tmp_path, *steps)
    said = changes(read_config(tmp_path / name), unmarked(read_config(out)))
    assert all(key.endswith("_config.dtype") for key in said)  # a part's own class would guess its type from the packed weights
    assert read_steps(out / OURS)
    stock = stock_support_of(out)
    assert not stock.alone and stock.reason.startswith(reason)
    assert words(stock).startswith(f"loads with stock Transformers alone: no, because {reason}")
    assert collect_outputs(load(out), make_miniature_batch(name, 2))


def test_what_remains_needs_trimodal_and_fits_the_changed_configuration(tmp_path: Path) -> None:
    out = compressed("llama", tmp_path, cut("neurons"), {"quantize.rtn": {"where": "*", "bits": 8}})
    assert changes(read_config(tmp_path / "llama"), unmarked(read_config(out))) == {"intermediate_size": 32}
    steps = read_steps(out / OURS)
    assert steps and all(isinstance(step, TreatWeight) and step.kind == "quantized" for step in steps)
    assert stock_support_of(out) == StockLoad(False, "weights are not plain tensors (quantized)")
    batch = make_miniature_batch("llama", 3)
    with_import = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    assert torch.equal(collect_outputs(load(out), batch)["logits"], collect_outputs(with_import, batch)["logits"])


def test_cuts_after_other_steps_stay(tmp_path: Path) -> None:
    """A factor that was cut is no layer of a configuration's; what does not touch it is absorbed, before it or after."""
    low_rank = {"factorize.svd": {"where": "*.0.gate", "rank": 4}}
    out = compressed("llama", tmp_path, low_rank, cut("heads"), cut("neurons", "text.0.*"))
    steps = read_steps(out / OURS)
    assert [step.verb for step in steps] == ["treat", "cut"]
    assert "num_attention_heads" in changes(read_config(tmp_path / "llama"), read_config(out))
    assert stock_support_of(out).reason == "weights are not plain tensors (low rank)"
    assert collect_outputs(load(out), make_miniature_batch("llama", 2))


def test_entropy_coded_and_back(tmp_path: Path) -> None:
    out = compressed("vit", tmp_path, cut("neurons"), pack="entropy")
    assert read_config(out)["quantization_config"] == {"quant_method": "trimodal", "pack": "entropy"}
    assert stock_support_of(out) == StockLoad(False, "its weights are entropy-coded")
    pipeline.pack(out, tmp_path / "plain", "plain")
    assert "quantization_config" not in read_config(tmp_path / "plain") and stock_support_of(tmp_path / "plain").alone
    assert read_verdict(tmp_path / "plain").stock == StockLoad(True)
    batch = make_miniature_batch("vit", 2)
    found = [collect_outputs(load(folder), batch)["logits"] for folder in (out, tmp_path / "plain")]
    assert torch.equal(*found) and not hasattr(load(out), "hf_quantizer")


def test_compressing_again_begins_at_the_changed_configuration(tmp_path: Path) -> None:
    out = compressed("llama", tmp_path, cut("neurons"))
    pipeline.compress(out, {"steps": [cut("neurons"), cut("heads")]}, None, tmp_path / "again")
    config = read_config(tmp_path / "again")
    assert (config["intermediate_size"], config["num_key_value_heads"]) == (16, 1)
    assert stock_support_of(tmp_path / "again").alone and load(tmp_path / "again")


def test_numbers_that_config_json_leaves_to_the_class(tmp_path: Path) -> None:
    """Many folders on the hub do: `head_dim` follows from others, and what is as usual is not said."""
    folder = write_miniature("llama", tmp_path / "llama")
    config = read_config(folder)
    steps = [CutUnits(f"text.{block}.heads", (1,)) for block in range(2)]
    kind = type(open_model(folder).module)
    found = find_native_config({k: v for k, v in config.items() if k != "head_dim"}, steps, kind)  # type: ignore[arg-type]
    assert not found.reason and changes(config, found.config) == {"num_attention_heads": 2, "num_key_value_heads": 1}
    resnet = {"model_type": "resnet"}  # sizes of a ResNet-50: 64, then 256 to 2,048
    steps = [CutUnits("image.stem.channels", (0,))]
    with pytest.raises(IntegrityError, match=r"recorded step 1 keeps 1 units of 'image.stem.channels'"):
        find_native_config(resnet, steps, transformers.ResNetForImageClassification)
    whole = [
        CutUnits(label, tuple(range(units // 2)))
        for label, units in _channels(build_meta_model(resnet, transformers.ResNetForImageClassification))
    ]
    found = find_native_config(resnet, whole, transformers.ResNetForImageClassification)
    assert not found.reason and found.config["hidden_sizes"] == [128, 256, 512, 1024]
    assert found.config["embedding_size"] == 32


def _channels(module: torch.nn.Module) -> list[tuple[str, int]]:
    layout = family_of(module).describe(module)
    units = {
        label: axis.units_of(label)
        for site in layout.sites for axis in (site.input_axis, site.output_axis) if axis for label in axis.labels
    }  # fmt: skip
    return list(units.items())


def test_attributes_must_be_the_same_but_for_sizes_that_were_cut() -> None:
    sizes = {"block.up": {(64, 32)}}
    wanted = {("block", ""): "Mlp", ("block", "scale"): 0.5, ("block", "size"): 64, ("other", "size"): 64}
    assert _list_differences({**wanted, ("block", "size"): 32}, wanted, sizes) == []
    assert _list_differences({**wanted, ("other", "size"): 32}, wanted, sizes) == ["other.size is 64"]
    assert _list_differences({**wanted, ("block", "scale"): 0.25}, wanted, sizes) == ["block.scale is 0.5"]
    assert _list_differences({**wanted, ("new", ""): "Layer"}, wanted, sizes) == ["new is not there"]
    shapes = {("up", "weight"): torch.Size((4, 2))}
    assert _list_differences({("up", "weight"): torch.Size((2, 4))}, shapes, {}) == 2 * ["up.weight is 4 × 2"]


def test_why_steps_stay() -> None:
    treated = [TreatWeight(name, name, {}, (), None) for name in ("low_rank", "dense", "codebook")]
    merged = MergeTokens("image", "matching", 0.5, 0, 0, True)
    assert _explain_steps([*treated, merged]) == "weights are not plain tensors (codebook, low rank) and tokens are merged"
    assert _explain_steps([CutUnits("image.0.heads", (0,)), treated[1]]) == "the steps that rebuild it (cut, treat) cannot change places"
    assert _explain_steps([]) == ""


def test_nothing_done_is_nothing_to_say(tmp_path: Path) -> None:
    folder = write_miniature("bert", tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    found = find_native_config({**config, "quantization_config": {"quant_method": "trimodal"}}, [], transformers.BertModel)
    assert (found.config, found.steps, found.reason) == (config, [], "")
    own = find_native_config({"model_type": "trimodal"}, [], FusionModel)
    assert own.reason == "FusionModel is a class of trimodal's own"
    broken = find_native_config({**config, "num_attention_heads": 5}, [], transformers.BertModel)
    assert broken.reason.startswith("BertModel cannot be built from this config.json")


def test_a_stock_process_that_fails_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(write_miniature("bert", tmp_path / "bert"))
    false = shutil.which("false")
    assert false is not None
    monkeypatch.setattr(sys, "executable", false)
    check = run_stock_check(model, tmp_path / "bert", None)
    assert (check.name, check.passed, check.detail) == ("loads with stock Transformers alone", False, "no message")

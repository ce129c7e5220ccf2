"""Every door into a compressed folder gives the model that was measured, or a sentence that says what to type."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModel, BertForMaskedLM, CLIPModel, CLIPVisionModel

import trimodal
from trimodal import pipeline
from trimodal.errors import ModelError
from trimodal.formats.reload_check import collect_outputs
from trimodal.networks.tiny import make_miniature_batch, write_miniature

ROOT = Path(__file__).parents[2]
INT8 = {"steps": [{"quantize.rtn": {"where": "*", "bits": 8}}]}


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`benchmarks.doors`."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import doors

    return doors


def nothing_wrong(doors: Any, families: tuple[str, ...], kinds: tuple[str, ...], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = doors.tried(families, kinds, folder, False)
    assert list(found) == list(families) and not [line for rows in found.values() for line in doors.wrong(rows)]
    return found


def test_doors_of_one_family(doors: Any, tmp_path: Path) -> None:
    rows = nothing_wrong(doors, ("clip",), tuple(doors.KINDS), tmp_path)["clip"]
    assert rows["AutoModel"] == {
        "int8, imported": "same", "cut, imported": "same", "coded, imported": "refused: entropy",
        "int8": "refused: import first", "cut": "same", "coded": "refused: import first",
    }  # fmt: skip
    assert rows["CLIPVisionModel"]["int8, imported"] == rows["CLIPTextModel"]["int8, imported"] == "same"
    assert rows["CLIPForImageClassification"]["int8, imported"] == rows["CLIPForImageClassification"]["cut"] == "same to 39 of 41"
    assert rows["save_pretrained, and again"]["cut"] == "same"


@pytest.mark.slow
def test_doors_of_all_families(doors: Any, tmp_path: Path) -> None:
    nothing_wrong(doors, tuple(doors.TASKS), tuple(doors.KINDS), tmp_path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
        trimodal.compress(write_miniature("clip", folder / "clip"), INT8, None, folder / "out")
    return folder / "out"


@pytest.fixture
def stranger() -> Iterator[None]:
    """Transformers as it is where trimodal was not imported."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

    kept = [(table, table.pop("trimodal")) for table in (AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING)]
    yield
    for table, ours in kept:
        table["trimodal"] = ours


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize("how", [
    {}, {"use_safetensors": True}, {"use_safetensors": False}, {"ignore_mismatched_sizes": True}, {"dtype": "float16"},
    {"variant": "fp16"}, {"from_tf": True}, {"from_flax": True}, {"low_cpu_mem_usage": True}, {"trust_remote_code": True},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("kind", [AutoModel, CLIPModel, CLIPVisionModel], ids=lambda kind: kind.__name__)
def test_without_the_import_transformers_says_what_to_type(clip: Path, kind: Any, how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"put the line `import trimodal` before the one that loads it, or use trimodal\.load"):
        kind.from_pretrained(clip, **how)


@pytest.mark.usefixtures("stranger")
def test_without_the_import_a_state_dict_or_another_folder_do_not_help(clip: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(clip)
    with pytest.raises(ValueError, match="import trimodal"):
        AutoModel.from_pretrained(clip.parent, subfolder="out")
    with pytest.raises(ValueError, match="import trimodal"):
        AutoModel.from_pretrained(clip, config=config)
    with pytest.raises(ValueError, match="import trimodal"):
        CLIPModel.from_pretrained(None, config=config, state_dict={})


def test_ways_in_after_the_import(clip: Path) -> None:
    batch, expected = make_miniature_batch("clip", 2), collect_outputs(trimodal.load(clip), make_miniature_batch("clip", 2))
    ways: list[dict[str, Any]] = [
        {"ignore_mismatched_sizes": True}, {"use_safetensors": True}, {"config": transformers.AutoConfig.from_pretrained(clip)},
        {"device_map": "cpu"}, {"attn_implementation": "eager"},
    ]  # fmt: skip
    for how in ways:
        found = collect_outputs(AutoModel.from_pretrained(clip, **how).eval(), batch)
        assert all(torch.allclose(found[key], expected[key], atol=1e-5) for key in expected), how
    within = AutoModel.from_pretrained(clip.parent, subfolder="out").eval()
    assert all(torch.equal(found, expected[key]) for key, found in collect_outputs(within, batch).items())
    with pytest.raises(ModelError, match="use from_pretrained"):
        CLIPModel.from_pretrained(None, config=transformers.AutoConfig.from_pretrained(clip), state_dict={})


def test_a_projector_of_another_shape_is_no_reason_for_random_numbers(clip: Path) -> None:
    with pytest.raises(ModelError, match=r"has visual_projection.weight in another shape \(16 × 32 and 512 × 32\)"):
        transformers.CLIPVisionModelWithProjection.from_pretrained(clip)


def test_a_head_tied_to_a_packed_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of BertForMaskedLM is the embedding's weight, which is no parameter any more."""
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    trimodal.compress(write_miniature("bert", tmp_path / "bert"), INT8, None, tmp_path / "out")
    found: Any = BertForMaskedLM.from_pretrained(tmp_path / "out")
    assert found.cls.predictions.decoder.stored is found.bert.embeddings.word_embeddings.stored
    assert torch.isfinite(collect_outputs(found.eval(), make_miniature_batch("bert", 2))["logits"]).all()


def test_the_mark_stands_in_every_part_and_with_a_type(clip: Path) -> None:
    config = json.loads((clip / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        assert part["quantization_config"] == {"quant_method": "trimodal"} and part["dtype"] == "float32"


@pytest.mark.parametrize("recipe, works", [
    ([{"prune.heads": {"where": "*", "sparsity": 0.5, "score": "magnitude"}}, INT8["steps"][0]], False),
    ([{"prune.neurons": {"where": "*", "sparsity": 0.5, "score": "magnitude"}}, INT8["steps"][0]], True),
    (INT8["steps"], True), ([{"fold.exact": {"where": "*"}}], False), ([{"factorize.svd": {"where": "*", "rank": 4}}], True),
])  # fmt: skip
def test_saved_again_as_plain_floats(recipe: Any, works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    trimodal.compress(write_miniature("clip", tmp_path / "clip"), {"steps": recipe}, None, tmp_path / "out")
    loaded: Any = trimodal.load(tmp_path / "out")
    with pytest.raises(ModelError, match="save_pretrained cannot write a compressed model; copy the folder"):
        loaded.save_pretrained(tmp_path / "again")
    plain: Any = trimodal.load(tmp_path / "out", dequantize=True)
    if not works:
        with pytest.raises(ModelError, match="save_pretrained cannot write a compressed model; copy the folder"):
            plain.save_pretrained(tmp_path / "again")
        return
    plain.save_pretrained(tmp_path / "again")
    again, info = AutoModel.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info.values())
    batch = make_miniature_batch("clip", 2)
    found, expected = collect_outputs(again.eval(), batch), collect_outputs(plain, batch)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


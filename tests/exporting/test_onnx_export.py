"""An artifact as ONNX: its codes in the file, the simulation's outputs out of ONNX Runtime, nothing dropped, nothing damaged unseen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import trimodal
from trimodal.errors import InputError, IntegrityError, TargetError
from trimodal.exporting import export as exporting
from trimodal.exporting.export import Export
from trimodal.layers import Affine, find_affine
from trimodal.networks.tiny import make_miniature_batch, write_miniature, write_miniature_data
from trimodal.runtimes import RUNTIMES
from trimodal.runtimes.exported_folder import read_exported
from trimodal.targets import read_target

INT8 = {"steps": [
    {"quantize.rtn": {"where": "*embedding*", "optional": True, "bits": 8, "group": "channel"}},
    {"quantize.smooth": {"where": "*", "bits": 8, "mode": "static"}},
]}  # fmt: skip
INT4 = {"steps": [
    {"quantize.rtn": {"where": "*embedding*", "bits": 8, "group": "channel"}}, {"quantize.rtn": {"where": "*", "bits": 4, "group": 16}},
]}  # fmt: skip
FIRST = "vision_model.encoder.layers.0.mlp.fc1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Artifacts by name, each exported below itself."""
    root = tmp_path_factory.mktemp("onnx")
    found = {}
    for name, recipe, modalities in (("clip", INT8, ("image", "text")), ("bert", INT4, ("text",))):
        model, data = write_miniature(name, root / name), write_miniature_data(root / f"{name}-data", 16, modalities)
        trimodal.compress(model, recipe, data, root / f"{name}-out")
        trimodal.export(root / f"{name}-out", "onnx")
        found[name] = root / f"{name}-out"
    return found


def test_a_tower_is_a_file_with_the_names_that_transformers_has(made: Mapping[str, Path]) -> None:
    said = read_exported(made["clip"] / "onnx")
    assert {name: (list(part.inputs), list(part.outputs), part.files) for name, part in said.components.items()} == {
        "text_model": (["input_ids", "attention_mask"], ["text_embeds"], ("onnx/text_model_quantized.onnx",)),
        "vision_model": (["pixel_values"], ["image_embeds"], ("onnx/vision_model_quantized.onnx",)),
    }
    assert read_exported(made["bert"] / "onnx").components["model"].files == ("onnx/model_q4.onnx",)


def test_the_codes_in_the_file_are_those_of_the_artifact(made: Mapping[str, Path]) -> None:
    module = trimodal.load(made["clip"])
    graph = onnx.load(str(made["clip"] / "onnx" / "onnx" / "vision_model_quantized.onnx")).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    path = "vision_model.encoder.layers.0.mlp.fc1"
    affine = find_affine(module, path)
    affine = affine if isinstance(affine, Affine) else affine.inner
    assert affine is not None
    written = numpy_helper.to_array(tensors[f"{path}.codes"])
    assert written.dtype == np.dtype("uint8" if read_target("onnxruntime").unsigned else "int8")  # as this machine wants them
    assert (written.T.astype(int) == affine.codes.numpy() - (0 if written.dtype == np.uint8 else 128)).all()
    assert (numpy_helper.to_array(tensors[f"{path}.scale"]) == affine.scale.numpy()[:, 0]).all()


def test_four_bits_are_packed_in_blocks(made: Mapping[str, Path]) -> None:
    graph = onnx.load(str(made["bert"] / "onnx" / "onnx" / "model_q4.onnx")).graph
    (codes,) = [t for t in graph.initializer if t.name == "encoder.layer.0.intermediate.dense.codes"]
    assert codes.data_type == onnx.TensorProto.INT4 and list(codes.dims) == [32, 64] and len(codes.raw_data) == 32 * 64 // 2
    assert {a.i for n in graph.node if n.op_type == "DequantizeLinear" for a in n.attribute if a.name == "block_size"} == {16}


@pytest.mark.parametrize("samples", [1, 3])
def test_the_runtime_gives_what_the_simulation_gives_at_any_batch(made: Mapping[str, Path], samples: int) -> None:
    module = trimodal.load(made["bert"])
    batch = make_miniature_batch("bert", samples)
    with torch.no_grad():
        wanted = module(**batch).last_hidden_state
    session = RUNTIMES["onnxruntime"](read_exported(made["bert"] / "onnx").path_of("model"), 1, exact=True)
    found = session.run({name: value.numpy() for name, value in batch.items()})["last_hidden_state"]
    real = batch["attention_mask"].bool()
    assert torch.from_numpy(found)[real] == pytest.approx(wanted[real], abs=1e-4)


def test_one_range_is_quantized_once(made: Mapping[str, Path]) -> None:
    graph = onnx.load(str(made["clip"] / "onnx" / "onnx" / "vision_model_quantized.onnx")).graph
    quantized = [tuple(node.input) for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) == len(set(quantized))


def test_checks_are_run_and_kept(made: Mapping[str, Path]) -> None:
    said = json.loads((made["clip"] / "onnx" / "export.json").read_text(encoding="utf-8"))
    checks = {check["name"]: check["status"] for check in said["checks"]}
    assert checks["layers equal the simulation's to one code"] == "passed"
    assert checks["vision_model: outputs as near as the simulation's"] == "passed"
    assert checks["image: as faithful as the simulation"] == checks["text: as faithful as the simulation"] == "passed"
    assert checks["weights are those that were verified"] == "passed"
    assert checks["nodes computed with integers"] == "passed"


def test_other_loaders_find_their_files_without_our_keys(made: Mapping[str, Path]) -> None:
    folder = made["clip"] / "onnx"
    assert "quantization_config" not in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (folder / "tokenizer.json").is_file() and (folder / "preprocessor_config.json").is_file()
    trimodal.load(made["clip"])  # the artifact takes no harm from what lies in it


@pytest.fixture(scope="module")
def unsigned(made: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """CLIP for processors without VNNI."""
    done: Export = trimodal.export(made["clip"], "onnx", tmp_path_factory.mktemp("unsigned") / "out", target="onnxruntime-avx2")
    return done


def read_tensors(done: Export) -> dict[str, Any]:
    """The vision tower's tensors by name."""
    graph = onnx.load(str(done.folder / "onnx" / "vision_model_quantized.onnx")).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_unsigned_codes_lie_around_128(unsigned: Export) -> None:
    tensors = read_tensors(unsigned)
    assert tensors[f"{FIRST}.codes"].dtype == np.uint8 and set(tensors[f"{FIRST}.zero"].tolist()) == {128}


def test_the_target_says_how_codes_are_written(made: Mapping[str, Path], unsigned: Export, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "run_trial", lambda *rest: [])  # signed products saturate on some machines
        signed = trimodal.export(made["clip"], "onnx", tmp_path / "signed", target="onnxruntime-vnni")
    for name, kind, done in (("onnxruntime-avx2", "uint8", unsigned), ("onnxruntime-vnni", "int8", signed)):
        assert read_tensors(done)[f"{FIRST}.codes"].dtype.name == kind
        assert json.loads((done.folder / "export.json").read_text(encoding="utf-8"))["target"] == name
        assert (read_target(name).explain_misfit() or "") in ("", *done.result.notes)
    with pytest.raises(TargetError, match="the target litert reads litert, not onnx"):
        trimodal.export(made["clip"], "onnx", tmp_path / "litert", target="litert")


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_seen(made: Mapping[str, Path], tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(made["bert"] / "onnx", tmp_path / "out")
    file = folder / "onnx" / "model_q4.onnx"
    if damage == "flip":
        _flip(file)
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-7])
    else:
        file.unlink()
    with pytest.raises(IntegrityError, match=r"model_q4\.onnx"):
        read_exported(folder)


def test_a_dropped_tower_is_no_success(made: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trimodal.exporting import export as verb
    from trimodal.exporting import trial

    def only_text(model: Any) -> Any:
        return split(model)[:1]

    split = verb.split_components
    monkeypatch.setattr(verb, "split_components", only_text)
    monkeypatch.setattr(trial, "split_components", only_text)
    with pytest.raises(IntegrityError, match="the image tower"):
        trimodal.export(made["clip"], "onnx", tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_what_cannot_be_exported_is_said(made: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no export format 'onx'; did you mean 'onnx'"):
        trimodal.export(made["bert"], "onx")
    with pytest.raises(InputError, match="no folder to write to"):
        trimodal.export(tmp_path, "onnx")
    with pytest.raises(InputError, match="not empty"):
        trimodal.export(made["bert"], "onnx")
    with pytest.raises(InputError, match="expected a folder that trimodal export wrote"):
        read_exported(tmp_path)

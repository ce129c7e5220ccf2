"""Damage to exported files is seen: by their sums when they are opened, and by the self-check when an exporter writes wrong numbers."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import trimodal
from trimodal.errors import InputError, IntegrityError
from trimodal.exporting import executorch, litert
from trimodal.exporting import onnx as onnx_format
from trimodal.exporting.layer_probes import LayerProbe, check_layers
from trimodal.exporting.onnx_graph import coded_weights
from trimodal.exporting.onnx_graph.integer_tensors import ScaledCodes
from trimodal.exporting.self_check import Probe, ProbeFile, RunFile, check_modalities
from trimodal.exporting.weight_probes import _measure_difference, check_weights
from trimodal.layers.stored import CodedWeight
from trimodal.networks.tiny import write_miniature, write_miniature_data

RECIPE = {"steps": [
    {"quantize.rtn": {"where": "*embedding*", "bits": 8, "group": "channel"}}, {"quantize.smooth": {"mode": "static", "strength": 0}},
]}  # fmt: skip
LAYER = "encoder.layer.1.intermediate.dense"
FILES = {
    "onnx": "onnx/model_quantized.onnx", "openvino": "openvino_model.bin", "compressed-tensors": "model.safetensors", "archive": "out.tri",
    "litert": "model.tflite", "executorch": "model.pte",
}  # fmt: skip
PHONES = {"litert": litert.ENVIRONMENT, "executorch": executorch.ENVIRONMENT}
FORMATS = [pytest.param(name, marks=[pytest.mark.slow] if name in PHONES else []) for name in FILES]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damage")
    trimodal.compress(write_miniature("bert", root / "bert"), RECIPE, write_miniature_data(root / "data", 16, ("text",)), root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def written(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Format -> the file with the weights, exported once."""
    made: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in made:
            if name in PHONES:
                try:
                    PHONES[name].find_python()
                except InputError:
                    pytest.skip(f"no environment for {name}: make {name}")
            place = tmp_path_factory.mktemp(name) / ("out.tri" if name == "archive" else "out")
            made[name] = trimodal.export(artifact, name, place).folder / FILES[name]
        return made[name]

    return write


def _find_scales(file: Path, artifact: Path) -> int:
    """Where the scales of `LAYER` lie in `file`: the first two unlike each other."""
    store: Any = trimodal.load(artifact, dequantize="memory").get_submodule(LAYER).stored
    assert isinstance(store, CodedWeight)
    affine: Any = store.affine()
    scale = affine.scale[:, 0].numpy()
    assert scale[0] != scale[1]
    return file.read_bytes().find(scale[:2].tobytes())


def _find_zero(name: str, file: Path) -> int:
    """Where the zero-point of an input range lies in `file`; -1 where the format has none."""
    content = file.read_bytes()
    if name == "onnx":
        tensor = next(t for t in onnx.load_from_string(content).graph.initializer if t.name.startswith("input_zero"))
        whole = tensor.SerializeToString()
        assert whole.endswith(tensor.raw_data)
        return content.find(whole) + len(whole) - 1
    if name == "openvino":
        told = file.with_suffix(".xml").read_text(encoding="utf-8")
        return int(re.search(r'name="input_zero[^>]*>\s*<data [^>]*offset="(\d+)"', told)[1])  # type: ignore[index]
    if name == "compressed-tensors":
        length = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + length])
        return 8 + length + int(told[f"{LAYER}.input_zero_point"]["data_offsets"][0])
    return -1


def _damage(name: str, file: Path, artifact: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "a flipped bit":
        content[len(content) // 2] ^= 1
    elif damage == "a swapped scale":
        at = _find_scales(file, artifact)
        at = len(content) // 2 if at < 0 else at  # an archive is entropy-coded, and its bytes are no numbers
        assert content[at : at + 4] != content[at + 4 : at + 8]
        content[at : at + 8] = content[at + 4 : at + 8] + content[at : at + 4]
    elif damage == "a wrong zero-point":
        at = _find_zero(name, file)
        at = len(content) // 2 if at < 0 else at
        content[at] = (content[at] + 1) % 256
    else:
        del content[-7:]
    file.write_bytes(bytes(content))


def _open(name: str, file: Path) -> None:
    if name == "archive":
        trimodal.load(file)
    else:
        trimodal.open_export(file.parents[1] if name == "onnx" else file.parent)


@pytest.mark.parametrize("damage", ["a flipped bit", "a swapped scale", "a wrong zero-point", "a truncated file"])
@pytest.mark.parametrize("name", FORMATS)
def test_damage_to_a_file_is_seen_when_it_is_opened(written: Callable[[str], Path], artifact: Path, name: str, damage: str) -> None:
    file = written(name)
    whole = file.read_bytes()
    try:
        _damage(name, file, artifact, damage)
        assert file.read_bytes() != whole
        with pytest.raises(IntegrityError, match=re.escape(file.name)):
            _open(name, file)
    finally:
        file.write_bytes(whole)


def test_a_file_beside_the_graph_may_not_be_cut(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_format, "SINGLE_FILE_BYTES", 1000)
    out = trimodal.export(artifact, "onnx", tmp_path / "out").folder
    file = out / "onnx" / "model_quantized.onnx_data"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=re.escape(file.name)):
        trimodal.open_export(out)


def _swap_scales(codes: ScaledCodes) -> ScaledCodes:
    scale = codes.scale.copy()
    scale[:2] = scale[1::-1]
    return dataclasses.replace(codes, scale=scale)


def _move_zero(codes: ScaledCodes) -> ScaledCodes:
    zero = np.zeros(len(codes.scale), codes.codes.dtype) if codes.zero is None else codes.zero
    return dataclasses.replace(codes, zero=(zero + 1).astype(zero.dtype))


def _flip_bit(codes: ScaledCodes) -> ScaledCodes:
    numbers = codes.codes.copy()
    numbers[3, 5] ^= 1
    return dataclasses.replace(codes, codes=numbers)


WRONG: Mapping[str, Callable[[ScaledCodes], ScaledCodes]] = {
    "embeddings.position_embeddings": _flip_bit, "embeddings.word_embeddings": _swap_scales, LAYER: _swap_scales,
    "encoder.layer.0.attention.self.query": _flip_bit, "encoder.layer.0.output.dense": _move_zero,
}  # fmt: skip


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_wrong_numbers_are_refused_by_the_self_check(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:  # fmt: skip
    scale_codes = coded_weights.scale_codes

    def write_wrongly(codes: Any, unsigned: bool) -> ScaledCodes | None:
        found = scale_codes(codes, unsigned)
        return found if found is None else WRONG.get(codes.path, lambda right: right)(found)

    monkeypatch.setattr(coded_weights, "scale_codes", write_wrongly)
    said = r"weights are those that were verified: failed \(16 of 16 .*, 5 are other weights than were verified: "
    with pytest.raises(IntegrityError, match=said + ", ".join(map(re.escape, sorted(WRONG)))):
        trimodal.export(artifact, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_wrong_floats_are_refused_by_the_self_check(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    build = onnx_format.build_graph

    def nudge(*given: Any, **options: Any) -> Any:
        graph, codes = build(*given, **options)
        tensor: Any = graph.graph.initializers[f"model.{LAYER}.bias"]
        numbers = tensor.const_value.numpy().copy()
        numbers[3] += 1e-4
        tensor.const_value = ir.tensor(numbers, name=tensor.name)
        return graph, codes

    monkeypatch.setattr("trimodal.exporting.openvino.build_graph" if name == "openvino" else "trimodal.exporting.onnx.build_graph", nudge)
    with pytest.raises(IntegrityError, match=f"floats are those of the model: failed .*1 are others than the model's: {LAYER}.bias"):
        trimodal.export(artifact, name, tmp_path / "out")


def test_a_square_matrix_that_lies_the_wrong_way_round_is_another_weight() -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert _measure_difference(weight.T, weight, turned=True) == 0 == _measure_difference(weight, weight, turned=False)
    assert _measure_difference(weight, weight, turned=True) > 0.1 < _measure_difference(weight.T, weight, turned=False)
    assert _measure_difference(torch.ones(3, 2), torch.ones(2, 3), turned=False) == 1.0


def test_a_layer_that_was_not_read_back_is_a_failure() -> None:
    (check,) = check_weights([{"one": 0.0}], {"two"}, 2)
    assert check.failed and check.detail == "1 of 2 coded layers read back, 1 were not found in any file: two"
    (check,) = check_weights([{"one": 0.0, "two": 1e-8}], {"two"}, 3)
    assert not check.failed and check.detail == "2 of 3 coded layers read back"


@pytest.mark.parametrize("name", [pytest.param("onnx", marks=pytest.mark.slow), "openvino"])
def test_a_wrong_input_range_is_refused_by_the_self_check(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:  # fmt: skip
    quantize = coded_weights._quantize

    def move_zero(editor: Any, x: Any, how: Any, before: Any) -> Any:
        return quantize(editor, x, dataclasses.replace(how, zero=how.zero + 2), before)

    monkeypatch.setattr(coded_weights, "_quantize", move_zero)
    with pytest.raises(IntegrityError, match=r"outputs as near|layers equal"):
        trimodal.export(artifact, name, tmp_path / "out")


def test_codes_that_became_floats_unseen_are_no_success(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = coded_weights._write_layer

    def forget(editor: Any, weight: Any, codes: Any, *rest: Any) -> None:
        if codes.path != LAYER:
            write(editor, weight, codes, *rest)

    monkeypatch.setattr(coded_weights, "_write_layer", forget)
    with pytest.raises(IntegrityError, match=f"the codes of 1 compressed layers .*first {LAYER}, whose weight is there as floats"):
        trimodal.export(artifact, "onnx", tmp_path / "out")


def test_an_input_that_is_missing_is_refused(written: Callable[[str], Path]) -> None:
    session = next(iter(trimodal.open_export(written("openvino").parent).sessions.values()))
    with pytest.raises(InputError, match="attention_mask"):
        session.run({"input_ids": torch.ones(1, 3, dtype=torch.int64).numpy()})


def test_fidelity_is_told_by_modality() -> None:
    one = {"y": torch.tensor([3.0, 4.0])}
    probes = [
        Probe("vision_model", {"pixel_values": torch.ones(1)}, {"y": torch.tensor([3.0, 4.5])}, one, real=True),
        Probe("text_model", {"input_ids": torch.ones(1), "attention_mask": torch.ones(1)}, {"y": torch.tensor([3.0, 4.5])}, one),
    ]
    runs = {name: RunFile({"y": np.array([3.0, 4.0 + off])}, []) for name, off in (("vision_model", 0.5), ("text_model", 1.0))}
    image, text = check_modalities(probes, runs)
    assert (image.name, image.status) == ("image: as faithful as the simulation", "passed")
    assert image.detail.startswith("0.1 from the model with plain inputs, the simulation 0.1, allowed 0.15; vision_model on real samples")
    assert (text.status, text.failed) == ("failed", True) and text.detail.endswith("text_model on inputs drawn at random")


@pytest.mark.parametrize(("saturates", "about"), [(False, "integrity"), (True, "quality")])
def test_a_layer_that_is_off_is_refused_unless_the_target_saturates(saturates: bool, about: str) -> None:
    probe = LayerProbe("fc1", ProbeFile("fc1", Path("fc1.xml"), {}), torch.tensor([1.0, 2.0]), allowed=0.1)
    (near,) = check_layers([probe], {"fc1": RunFile({"y": np.array([1.0, 2.05])}, [])}, saturates)
    (far,) = check_layers([probe], {"fc1": RunFile({"y": np.array([1.0, 2.3])}, [])}, saturates)
    assert not near.failed and far.failed and far.about == about and "saturate" in far.detail

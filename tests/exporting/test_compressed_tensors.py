"""compressed-tensors: what stands in the file, read by code of this test's own; what is refused; and in the other environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import trimodal
from trimodal import pipeline
from trimodal.errors import InputError, IntegrityError
from trimodal.exporting.export import Export, export
from trimodal.exporting.tensor_scheme import CodableLayer, Scheme, choose_scheme
from trimodal.layers.affine import Affine
from trimodal.networks.tiny import write_miniature, write_miniature_data

NAME = "compressed-tensors"
DATA = {"clip": ("image", "text"), "llama": ("text",), "bert": ("text",), "vit": ("image",)}
ROUND_8 = {"quantize.rtn": {"where": "*embedding*", "optional": True, "bits": 8, "group": "channel"}}


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Any], Path]:
    """The artifact of a miniature after a recipe, made once."""
    made: dict[str, Path] = {}

    def artifact(name: str, steps: Any) -> Path:
        key = f"{name} {steps}"
        if key not in made:
            folder = tmp_path_factory.mktemp(name)
            data = write_miniature_data(folder / "data", 10, DATA[name])
            recipe = steps if isinstance(steps, str) else {"steps": steps}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
                pipeline.compress(write_miniature(name, folder / name), recipe, data, folder / "out")
            made[key] = folder / "out"
        return made[key]

    return artifact


def read_config(found: Export) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((found.folder / "config.json").read_text(encoding="utf-8"))
    return config


def decode(tensors: Mapping[str, Tensor], path: str, bits: int) -> Tensor:
    """A weight as the format describes it, with Python's whole numbers in the place of ours."""
    scale = tensors[f"{path}.weight_scale"]
    if f"{path}.weight_packed" in tensors:
        rows, columns = tensors[f"{path}.weight_shape"].tolist()
        values = torch.empty(rows, columns)
        for row, words in enumerate(tensors[f"{path}.weight_packed"].tolist()):
            whole = sum((word & 0xFFFFFFFF) << (32 * n) for n, word in enumerate(words))
            values[row] = torch.tensor([(whole >> (bits * n) & (2**bits - 1)) - 2 ** (bits - 1) for n in range(columns)])
    else:
        values = tensors[f"{path}.weight"].to(scale.dtype)
    return values * scale.repeat_interleave(values.shape[1] // scale.shape[1], dim=1)


def check_same_numbers(found: Export, artifact: Path, bits: int) -> None:
    """Every tensor of the decoded model is in the file, in its type, and no Linear that is floats is left out of `ignore`."""
    module = trimodal.load(artifact, dequantize=True)
    tensors, coded = load_file(found.folder / "model.safetensors"), found.result.coded
    for name, tensor in module.state_dict().items():
        path = name.removesuffix(".weight")
        if path in coded and name.endswith(".weight"):
            assert torch.equal(decode(tensors, path, bits), tensor), name
        elif name in tensors:
            assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name
        else:
            assert name == "lm_head.weight"  # tied
    linear = {path for path, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    assert linear - coded <= set(read_config(found)["quantization_config"]["ignore"])
    assert not coded & set(read_config(found)["quantization_config"]["ignore"])


@pytest.mark.parametrize(("bits", "group"), [(8, "channel"), (4, 32), (3, "channel")])
def test_weights_only(bits: int, group: Any, compressed: Callable[[str, Any], Path], tmp_path: Path) -> None:
    artifact = compressed("clip", [{"quantize.rtn": {"where": "*", "optional": True, "bits": bits, "group": group}}])
    found = export(artifact, NAME, tmp_path / "out")
    check_same_numbers(found, artifact, bits)
    said = read_config(found)["quantization_config"]
    assert (said["quant_method"], said["format"], said["quantization_status"]) == (NAME, "pack-quantized", "compressed")
    (scheme,) = said["config_groups"].values()
    assert scheme["targets"] == ["Linear"] and scheme["input_activations"] is None
    expected = {"strategy": "channel", "group_size": None} if group == "channel" else {"strategy": "group", "group_size": 32}
    assert scheme["weights"] == {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False, **expected}
    assert len(found.result.coded) == 26 and set(found.result.decoded) == {
        "text_model.embeddings.token_embedding", "text_model.embeddings.position_embedding",
        "vision_model.embeddings.position_embedding", "vision_model.embeddings.patch_embedding",
    }  # fmt: skip
    assert (tmp_path / "out" / "tokenizer.json").is_file() and not (tmp_path / "out" / "trimodal.json").exists()
    assert [check.passed for check in found.result.checks] == [True]


@pytest.mark.parametrize("mode", ["token", "static"])
def test_quantized_inputs(mode: str, compressed: Callable[[str, Any], Path], tmp_path: Path) -> None:
    steps = [ROUND_8, {"quantize.smooth": {"where": "*", "optional": True, "bits": 8, "mode": mode, "strength": 0}}]
    artifact = compressed("clip", steps)
    found = export(artifact, NAME, tmp_path / "out")
    check_same_numbers(found, artifact, 8)
    said = read_config(found)["quantization_config"]
    (scheme,) = said["config_groups"].values()
    assert said["format"] == scheme["format"] == "int-quantized"
    strategy = "tensor" if mode == "static" else "token"
    assert scheme["input_activations"] == {
        "num_bits": 8, "type": "int", "symmetric": False, "strategy": strategy, "dynamic": mode == "token",
    }  # fmt: skip
    assert list(found.result.float_inputs) == ["vision_model.embeddings.patch_embedding"]
    tensors, path = load_file(found.folder / "model.safetensors"), "text_model.encoder.layers.0.mlp.fc1"
    assert (f"{path}.input_scale" in tensors) == (mode == "static")
    if mode == "static":
        store = trimodal.load(artifact).get_submodule(path).stored
        x = torch.randn(5, 32)
        scale, zero = tensors[f"{path}.input_scale"], tensors[f"{path}.input_zero_point"].float()
        seen = ((x / scale + zero).round().clamp(-128, 127) - zero) * scale
        assert torch.equal(seen, store.fake_quantize_input(x))  # type: ignore[operator]


def test_parts_call_their_layers_by_other_names(compressed: Callable[[str, Any], Path], tmp_path: Path) -> None:
    steps = [{"quantize.rtn": {"where": ["text.1.*", "image.0.*"], "bits": 8, "group": "channel"}}]
    config = read_config(export(compressed("clip", steps), NAME, tmp_path / "out"))
    path = "text_model.encoder.layers.0.mlp.fc1"
    assert path in config["quantization_config"]["ignore"]
    alone = config["text_config"]["quantization_config"]["ignore"]
    assert {"encoder.layers.0.mlp.fc1", path, "text_projection"} <= set(alone) and "encoder.layers.1.mlp.fc1" not in alone
    assert "encoder.layers.1.mlp.fc1" in config["vision_config"]["quantization_config"]["ignore"]


def test_a_tied_head_is_floats_under_both_its_names(compressed: Callable[[str, Any], Path], tmp_path: Path) -> None:
    artifact = compressed("llama", "int8")
    found = export(artifact, NAME, tmp_path / "out")
    check_same_numbers(found, artifact, 8)
    assert read_config(found)["quantization_config"]["ignore"] == ["lm_head"]
    steps = [{"quantize.rtn": {"where": "text.1.*", "bits": 8, "group": "channel"}}]
    ignore = read_config(export(compressed("llama", steps), NAME, tmp_path / "one"))["quantization_config"]["ignore"]
    assert {"model.layers.0.mlp.up_proj", "layers.0.mlp.up_proj", "lm_head"} <= set(ignore)


def test_layers_of_several_kinds_go_into_one_scheme_without_loss(compressed: Callable[[str, Any], Path], tmp_path: Path) -> None:
    steps = [
        {"quantize.rtn": {"where": "text.0.*", "bits": 3, "group": "channel"}},
        {"quantize.rtn": {"where": "text.1.*", "bits": 4, "group": 32, "grid": "asymmetric"}},
        {"quantize.rtn": {"where": "*embedding*", "bits": 4, "group": 32, "grid": "nf"}},
    ]  # fmt: skip
    artifact = compressed("bert", steps)
    found = export(artifact, NAME, tmp_path / "out")
    (scheme,) = read_config(found)["quantization_config"]["config_groups"].values()
    assert (scheme["weights"]["num_bits"], scheme["weights"]["group_size"]) == (5, 32)
    assert len(found.result.coded) == 12
    check_same_numbers(found, artifact, 5)
    assert any("vLLM has kernels for 4 and 8 bits" in note for note in found.result.notes)


def test_pruned_blocks_that_the_class_can_build(compressed: Callable[[str, Any], Path], tmp_path: Path) -> None:
    steps = [{"prune.neurons": {"where": "*", "sparsity": 0.5}}, ROUND_8, {"quantize.rtn": {"where": "*", "optional": True, "bits": 8}}]
    artifact = compressed("bert", steps)
    found = export(artifact, NAME, tmp_path / "out")
    assert read_config(found)["intermediate_size"] == 32
    check_same_numbers(found, artifact, 8)


@pytest.mark.parametrize(
    ("name", "steps", "said"),
    [
        ("bert", [{"quantize.smooth": {"where": "*", "strength": 0.5}}],
         r"multiplied by factors per column \(smoothing\).*recipes that can: int8"),
        ("vit", [{"merge.tokens": {"where": "image", "share": 0.5}}, {"quantize.rtn": {"where": "*", "optional": True, "bits": 8}}],
         r"plain layers cannot say what was done \(merge"),
        ("clip", [{"prune.heads": {"where": "text.*", "sparsity": 0.5}}, {"quantize.rtn": {"where": "*", "optional": True, "bits": 8}}],
         "which only stock classes load"),
        ("bert", "int4", "name the numbers of a table"),
    ],
)  # fmt: skip
def test_what_cannot_be_written(name: str, steps: Any, said: str, compressed: Callable[[str, Any], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        export(compressed(name, steps), NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_codes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing of it is stored as codes; compress it first"):
        export(write_miniature("bert", tmp_path / "bert"), NAME, tmp_path / "out")


def test_wrong_numbers_in_the_file_are_seen(
    compressed: Callable[[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimodal.exporting import compressed_tensors

    true = compressed_tensors.pack_into_words

    def flip(values: Tensor, bits: int) -> Tensor:
        words = true(values, bits)
        words[0, 0] ^= 1
        return words

    monkeypatch.setattr(compressed_tensors, "pack_into_words", flip)
    with pytest.raises(IntegrityError, match=r"decoded weights: failed .*; nothing was kept"):
        export(compressed("llama", "int8"), NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def make_layer(rows: int, columns: int, bits: int, group: int | None) -> CodableLayer:
    groups = 1 if group is None else columns // group
    scale = torch.arange(1, rows * groups + 1).float().view(rows, groups)
    zero = torch.full((rows, groups), 2 ** (bits - 1), dtype=torch.int32)
    affine = Affine(torch.zeros(rows, columns, dtype=torch.int32), scale, zero, bits, group or columns, (rows, columns))
    return CodableLayer(f"{rows}", affine, bits, rows, columns, group, None, rows * columns * 4)


def test_the_scheme_by_hand() -> None:
    layers = {"a": make_layer(64, 64, 4, 32), "b": make_layer(64, 64, 3, None)}
    assert [Scheme(4, 32).count_bytes(layer) for layer in layers.values()] == [2560, 2560]
    assert [Scheme(3, None).count_bytes(layer) for layer in layers.values()] == [16384, 1792]
    assert choose_scheme(layers) == Scheme(4, 32)
    assert layers["b"].read_scales(Scheme(4, 32)).tolist()[:2] == [[1.0, 1.0], [2.0, 2.0]]
    wide = make_layer(2, 128, 4, 64)
    assert wide.read_scales(Scheme(4, 32)).tolist()[0] == [1.0, 1.0, 2.0, 2.0]
    assert not Scheme(4, 128).fits(wide) and not Scheme(3, 64).fits(wide) and not Scheme(4, None).fits(wide)


@pytest.mark.slow
def test_stock_transformers_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))  # benchmarks/ is no part of the package
    from benchmarks.peers import python_of

    if python_of(NAME) is None:
        pytest.skip(f"no environment; python -m benchmarks.peers {NAME} makes it")
    from benchmarks import compressed_tensors as benchmark

    for only in ("clip-w4", "llama-w8a8"):
        jobs = [job for row, out, probe in benchmark.list_rows(tmp_path, only) for job in benchmark.list_jobs(row, out, probe, tmp_path)]
        _, said = benchmark.run_jobs(jobs, tmp_path)
        with pytest.raises(SystemExit) as ended:
            benchmark.report(jobs, [benchmark.compare(job, one) for job, one in zip(jobs, said, strict=True)])
        assert ended.value.code == 0

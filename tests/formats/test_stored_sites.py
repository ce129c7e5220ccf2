"""What a manifest says is stored agrees with the tensors of the artifact, decoded, whatever was done to the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal import pipeline
from trimodal.core.stored_site import StoredSite
from trimodal.errors import IntegrityError
from trimodal.formats import load, open_model
from trimodal.formats.stored_sites import describe_stored_sites
from trimodal.layers import Affine, find_affine
from trimodal.manifest import read_manifest, read_manifest_content, write_manifest
from trimodal.maths.packing import unpack_codes
from trimodal.models.model import Model
from trimodal.networks.tiny import write_miniature, write_miniature_data

Steps = list[dict[str, Any]]
INT8: Steps = [{"quantize.rtn": {"where": "*", "bits": 8}}]
CASES: dict[str, tuple[str, Steps]] = {
    "clip 8 bits": ("clip", INT8),
    "llama groups, gptq": ("llama", [{"quantize.gptq": {"where": "*", "optional": True, "bits": 3, "group": 16, "grid": "asymmetric"}}]),
    "bert signed, tensor": ("bert", [{"quantize.rtn": {"where": "*", "bits": 4, "group": "tensor", "grid": "symmetric"}}]),
    "bert nf": ("bert", [{"quantize.rtn": {"where": "*", "bits": 4, "group": 16, "grid": "nf"}}]),
    "bert one table per tower": ("bert", [{"quantize.rtn": {"where": "*", "bits": 4, "grid": "kmeans", "table": "tower", "group": 16}}]),
    "bert hqq": ("bert", [{"quantize.hqq": {"where": "*", "bits": 3, "group": 16, "steps": 2}}]),
    "bert entropy": ("bert", [{"quantize.entropy": {"where": "*.down", "bits": 4.0}}]),
    "bert rotated and scaled": ("bert", [
        {"quantize.rotated": {"where": "*.down", "bits": 4}}, {"quantize.awq": {"where": "*.up", "bits": 4}}]),
    "bert repaired": ("bert", [{"quantize.rtn": {"where": "*.down", "bits": 4, "rank": 2, "outliers": 0.01}}]),
    "vit inputs static": ("vit", [{"quantize.smooth": {"where": "*", "bits": 8, "mode": "static"}}]),
    "vit inputs per token": ("vit", [{"quantize.smooth": {"where": "*", "bits": 8, "mode": "token"}}]),
    "vit 2:4": ("vit", [{"prune.wanda": {"where": "*", "optional": True, "kept": 2, "of": 4}}]),
    "vit masked": ("vit", [
        {"prune.wanda": {"where": "*", "optional": True, "sparsity": 0.4}}, {"quantize.rtn": {"where": "*", "bits": 4}}]),
    "whisper dropped": ("whisper", [{"prune.layers": {"where": "*", "sparsity": 0.5}}, *INT8]),
    "bert shared": ("bert", [{"share.layers": {"where": "*", "rank": 2}}]),
    "bert low rank": ("bert", [{"factorize.eigen": {"where": "*.down", "rank": 8}}, *INT8]),
    "resnet tucker": ("resnet", [{"factorize.tucker": {"where": "*", "optional": True, "sparsity": 0.4}}, *INT8]),
    "resnet folded": ("resnet", [{"fold.exact": {"where": "*"}}, *INT8]),
    "fusion cut": ("fusion", [{"prune.heads": {"where": "*", "sparsity": 0.5}}, *INT8]),
}  # fmt: skip
MODALITIES = {"clip": ("image", "text"), "whisper": ("audio", "text"), "vit": ("image",), "resnet": ("image",),
              "fusion": ("image", "text", "audio")}  # fmt: skip


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a case's name to its artifact, made once."""
    made: dict[str, Path] = {}

    def artifact(name: str) -> Path:
        if name not in made:
            miniature, steps = CASES[name]
            folder = tmp_path_factory.mktemp("stored")
            (folder / "recipe.json").write_text(json.dumps({"calibration": {"samples": 4}, "steps": steps}))
            write_miniature_data(folder / "data", 10, list(MODALITIES.get(miniature, ("text",))))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
                source = write_miniature(miniature, folder / "model")
                pipeline.compress(source, folder / "recipe.json", folder / "data", folder / "out")
            made[name] = folder / "out"
        return made[name]

    return artifact


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_is_what_is_there(make: Callable[[str], Path], name: str) -> None:
    manifest, model = read_manifest(make(name)), open_model(make(name))
    assert [site.path for site in manifest.stored] == [site.path for site in model.layout.sites]
    for said in manifest.stored:
        check_agrees(said, model)


def check_agrees(said: StoredSite, model: Model) -> None:
    """Every field against the layer and its tensors, found here in other ways than the manifest's."""
    layer, site = model.module.get_submodule(said.path), model.layout.get_site(said.path)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    assert said.shape == tuple(weight.shape) == site.shape and said.dtype == str(weight.dtype).removeprefix("torch.")
    assert said.bytes == site.stored_bytes and said.kind == site.stored and said.tied == site.tied
    matrix = weight.detach().flatten(1) if weight.dim() > 1 else weight.detach()[None]
    if said.kind in ("dense", "sparse", "shared"):
        assert said.weight is None
    if said.kept is not None:
        assert said.kept.of == matrix.numel() and int((matrix != 0).sum()) <= said.kept.weights
        if said.kept.pattern is not None:
            kept, of = map(int, said.kept.pattern.split(":"))
            assert bool(((matrix.view(-1, of) != 0).sum(dim=1) <= kept).all()) and said.kept.weights * of == matrix.numel() * kept
    if said.shared_with is not None:
        assert weight is model.module.get_submodule(said.shared_with).weight
    if said.rank is not None:
        check_rank(said, model)
    if said.weight is not None:
        check_weight(said, layer, matrix)
    check_input(said, layer)


def check_weight(said: StoredSite, layer: nn.Module, matrix: Tensor) -> None:
    how, tensors = said.weight, dict(layer.stored.named_buffers())  # type: ignore[union-attr, operator]
    assert how is not None
    if how.grid == "whole numbers":
        assert (how.bits, how.group) == (8, "column") and tensors["codes"].dtype == torch.int8
        return
    columns = matrix.shape[1]
    size = columns if isinstance(how.group, str) else how.group
    codes = unpack_codes(tensors["codes"], how.bits, columns if said.kept is None else said.kept.weights)
    assert int(codes.max()) < 2**how.bits and codes.unique().numel() <= 2**how.bits
    if how.scale_dtype is not None:
        rows = 1 if how.group == "tensor" and how.grid in ("positive", "signed", "asymmetric") else len(matrix)
        assert tensors["scale"].dtype == torch.float16
        assert how.group == "tensor" or tensors["scale"].shape == (rows, -(-columns // size))
        assert how.group != "tensor" or tensors["scale"].numel() == rows
    zero = tensors.get("zero")
    assert how.zero_point == (False if zero is None else str(zero.dtype).removeprefix("torch."))
    assert said.outliers == (len(tensors["outliers"]) if "outliers" in tensors else None)
    assert said.correction_rank == (tensors["left"].shape[1] if "left" in tensors else None)
    assert (said.rotated_columns is not None) == ("signs" in tensors) and said.scaled_columns == ("columns" in tensors)
    if how.grid == "positive":
        assert bool((tensors["scale"] > 0).all())
    if how.grid in ("nf", "k-means"):
        assert zero is None and (said.table_from is not None) == ("levels" not in tensors)
        return
    check_distinct_values(said, layer, matrix, size)


def check_distinct_values(said: StoredSite, layer: nn.Module, matrix: Tensor, size: int) -> None:
    """An even grid: within a group all weights are whole multiples of its step."""
    found = find_affine(nn.ModuleDict({"x": layer}), "x")
    plain = isinstance(found, Affine)
    assert plain == (said.outliers is None and said.correction_rank is None and not said.scaled_columns and said.rotated_columns is None)
    if plain:
        assert torch.equal(found.decode().flatten(1), matrix.float())
        group = matrix[0, :size] / found.scale[0, 0]
        assert (group - group.round()).abs().max() < 1e-3 or said.weight.zero_point == "float16"  # type: ignore[union-attr]


def check_rank(said: StoredSite, model: Model) -> None:
    assert said.factor_of is not None and said.path.startswith(said.factor_of)
    ranks = (said.rank,) if isinstance(said.rank, int) else said.rank
    assert ranks is not None
    whole = model.module.get_submodule(said.factor_of)
    inner = [link.weight.shape[1 if isinstance(link, nn.Embedding) else 0] for link in list(whole.children())[: len(ranks)]]
    assert inner[: len(ranks)] == list(ranks)


def check_input(said: StoredSite, layer: nn.Module) -> None:
    """A static range is where huge inputs end up."""
    store: Any = getattr(layer, "stored", None)
    assert (said.input is not None) == bool(getattr(store, "quantizes_inputs", False))
    if said.input is None or said.input.range is None:
        return
    shape = (2, said.shape[1], *(8 for _ in said.shape[2:]))
    ends = store.fake_quantize_input(torch.full(shape, 1e6)), store.fake_quantize_input(torch.full(shape, -1e6))
    factor = store.get_buffer("columns").float().view(said.shape[1], -1)[:, 0] if said.scaled_columns else torch.ones(said.shape[1])
    for end, seen in zip(reversed(said.input.range), ends, strict=True):
        first = seen[0].reshape(said.shape[1], -1)[:, 0]
        assert torch.allclose(first * factor, torch.full_like(factor, end), rtol=1e-4, atol=1e-5)


def test_final_paths_after_blocks_are_gone(make: Callable[[str], Path]) -> None:
    manifest = read_manifest(make("whisper dropped"))
    assert manifest.get_stored("model.decoder.layers.0.fc2").weight is not None
    with pytest.raises(KeyError, match=r"layers.1.fc2"):
        manifest.get_stored("model.decoder.layers.1.fc2")


def test_every_word_is_used_and_comes_back(make: Callable[[str], Path]) -> None:
    every = [site for name in CASES for site in read_manifest(make(name)).stored]
    assert {site.weight.grid for site in every if site.weight} >= {"positive", "signed", "asymmetric", "nf", "k-means", "whole numbers"}
    assert {site.input.mode for site in every if site.input} >= {"static", "per token"}
    assert any(site.rank for site in every) and any(site.shared_with for site in every) and any(site.table_from for site in every)
    assert any(site.kept and site.kept.pattern == "2:4" for site in every)
    for site in every:
        assert StoredSite.from_json(json.loads(json.dumps(site.to_json()))) == site


def _changed(folder: Path, path: str, **values: Any) -> None:
    """Let the manifest say something else of the site at `path`, and make its seal fit."""
    content = read_manifest_content(folder)
    sites = [{**site, **values} if site["path"] == path else site for site in content["stored"]]
    write_manifest(folder, {**content, "stored": sites})


@pytest.mark.parametrize(("values", "words"), [
    ({"weight": None}, "says of vit.layers.0.mlp.fc1 weight None, but its weights have"),
    ({"weight": {"bits": 4, "group": "channel", "grid": "positive", "zero_point": False, "scale_dtype": "float16"}}, "'bits': 4"),
    ({"input": {"bits": 8, "mode": "static", "range": [-1.0, 1.0]}}, "says of vit.layers.0.mlp.fc1 input"),
    ({"shape": [1, 1]}, "shape"), ({"bytes": 3}, "bytes 3"), ({"rank": 4}, "rank 4"), ({"dtype": "float16"}, "dtype 'float16'"),
    ({"weight": {"bits": "x"}}, "cannot be read .*vit.layers.0.mlp.fc1: weight is"),
    ({"input": {"bits": 8, "mode": "sometimes", "range": None}}, "cannot be read .*input.mode is 'sometimes'"),
    ({"kept": {"weights": 5, "of": 4, "pattern": None}}, "cannot be read .*kept is"), ({"kind": ["x"]}, "cannot be read .*kind is"),
    ({"unheard": 1}, "cannot be read .*unheard is missing or unknown"), ({"tied": "x"}, "cannot be read .*tied is 'x'"),
])  # fmt: skip
def test_wrong_values_are_refused(make: Callable[[str], Path], tmp_path: Path, values: dict[str, Any], words: str) -> None:
    import shutil

    folder = shutil.copytree(make("vit inputs static"), tmp_path / "out")
    _changed(folder, "vit.layers.0.mlp.fc1", **values)
    with pytest.raises(IntegrityError, match=words):
        load(folder)


def test_a_list_of_other_sites_is_refused(make: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(make("clip 8 bits"), tmp_path / "out")
    content = read_manifest_content(folder)
    write_manifest(folder, {**content, "stored": content["stored"][1:]})
    with pytest.raises(IntegrityError, match="lists as stored other sites than the model has"):
        load(folder)


def test_a_positive_grid_with_other_scales_is_refused(make: Callable[[str], Path]) -> None:
    from trimodal.formats.stored_sites import check_stored_sites

    folder = make("clip 8 bits")
    model, manifest = open_model(folder), read_manifest(folder)
    check_stored_sites(model.module, manifest, folder)
    store: Any = model.module.get_submodule("text_projection").stored
    store.get_buffer("scale")[0] = -0.5
    with pytest.raises(IntegrityError, match="text_projection has scales that are not above 0 on a positive grid"):
        check_stored_sites(model.module, manifest, folder)


def test_the_list_is_that_of_the_model_in_memory(make: Callable[[str], Path]) -> None:
    model = open_model(make("bert low rank"))
    found = describe_stored_sites(model.module, model.layout)
    assert found == read_manifest(make("bert low rank")).stored
    assert replace(found[0], bytes=0) != found[0]


def test_packing_keeps_the_list(make: Callable[[str], Path], tmp_path: Path) -> None:
    folder = make("clip 8 bits")
    pipeline.pack(folder, tmp_path / "packed")
    assert read_manifest(tmp_path / "packed").stored == read_manifest(folder).stored and load(tmp_path / "packed")

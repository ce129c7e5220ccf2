"""Weights that are stored in another way: hostile treatments in a file, and how they follow one another."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded import HUGE, PATH, codebook, cut, drop, low_rank, quantized, replay_, sparse, treat
from torch import nn
from transformers import CLIPConfig, CLIPModel

from trimodal.core.model_edit import ModelEdit
from trimodal.edits import DropBlocks, TreatWeight, UnfitEditError, read_edit
from trimodal.errors import IntegrityError
from trimodal.graph.layout import find_layout
from trimodal.networks.tiny import make_miniature

SIZE = 40_000
BAD_FORM: Mapping[str, Any] = {
    "of-text": {"treat": "all"},
    "residual-of-a-kernel": treat("residual", {"shape": [16, 32, 3], "dtype": "float32", "rank": 1}),
    "residual-beyond": treat("residual", {"shape": [16, 32], "dtype": "float32", "rank": 17}),
    "unknown-kind": quantized(kind="pickled"),
    "kind-of-list": quantized(kind=["quantized"]),
    "further-key": {"treat": {**quantized()["treat"], "code": "print()"}},
    "without-bias": {"treat": {key: value for key, value in quantized()["treat"].items() if key != "bias"}},
    "options-of-text": treat("dense", "shape"),
    "path-of-number": quantized(path=3),
    "dtype-of-torch": quantized(options_dtype="load"),
    "dtype-of-list": quantized(options_dtype=["float32"]),
    "huge-shape": quantized(options_shape=[HUGE, HUGE]),
    "larger-than-the-file": low_rank(100_000, [16, 32]),
    "negative": quantized(options_shape=[-16, 32]),
    "shape-of-text": quantized(options_shape="16"),
    "no-shape": quantized(options_shape=None),
    "further-option": quantized(options_forward=1),
    "zeros-of-text": quantized(options_zero="uint64"),
    "rotation-of-no-power-of-two": quantized(options_rotation=12),
    "rotation-beyond": quantized(options_rotation=64),
    "columns-of-number": quantized(options_columns=1),
    "more-outliers-than-weights": quantized(options_outliers=16 * 32 + 1),
    "rank-of-fractions": quantized(options_rank=0.5),
    "more-kept-than-weights": sparse(16 * 32 + 1, [16, 32]),
    "sparse-with-parts": treat("sparse", {"shape": [16, 32], "dtype": "float32", "kept": 4, "rank": 1}),
    "low-rank-of-a-kernel-as-embedding": low_rank(4, [16, 32, 3], embedding=True),
    "tucker-of-a-matrix": treat("tucker", {"shape": [16, 32], "dtype": "float32", "ranks": [2, 2]}),
    "tucker-with-one-rank": treat("tucker", {"shape": [16, 32, 3], "dtype": "float32", "ranks": [2]}),
    "cp-larger-than-the-file": treat("cp", {"shape": [16, 32, 3], "dtype": "float32", "rank": 10**9}),
    "codebook-without-tables": treat("codebook", {"shape": [16, 32], "dtype": "float32", "bits": 4}),
    "bits-0": quantized(options_bits=0),
    "bits-64": quantized(options_bits=64),
    "bits-yes": quantized(options_bits=True),
    "group-0": quantized(options_group=0),
    "exponent": quantized(options_exponent=10**9),
    "exponent-text": quantized(options_exponent="3"),
    "bias-of-text": quantized(bias="16"),
    "bias-of-two": quantized(bias=[4, 4]),
    "bias-of-none": quantized(bias=[]),
    "tied-to-number": quantized(tied=[1]),
    "table-of-nobody": codebook("borrowed"),
    "table-of-a-number": codebook("borrowed", table=1),
    "table-that-is-not-borrowed": codebook("tower", table="a"),
    "empty-table-that-is-not-borrowed": codebook("tower", table=""),
    "table-for-a-grid": quantized(table="a"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FORM)
def test_treatments_of_no_known_form(case: str) -> None:
    with pytest.raises(UnfitEditError, match=r"is a treat of|keeps .* with|wants .* bytes"):
        read_edit(BAD_FORM[case], SIZE)


BAD_FIT: Mapping[str, Any] = {
    "path-outside": quantized(path="__class__"),
    "path-to-a-method": quantized(path="get_input_embeddings"),
    "path-to-the-root": quantized(path=""),
    "path-up": quantized(path="..visual_projection"),
    "path-to-a-norm": quantized(path="vision_model.post_layernorm"),
    "path-to-a-block": quantized(path="vision_model.encoder"),
    "other-shape": quantized(options_shape=[32, 16]),
    "tied-outside": quantized(tied=["__class__"]),
    "tied-to-another-shape": quantized(tied=["logit_scale"]),
    "factors-of-another-layer": low_rank(4, [16, 500]),
    "factors-of-an-embedding": low_rank(4, [16, 32], embedding=True),
    "kernel-of-a-matrix": treat("cp", {"shape": [16, 32, 3], "dtype": "float32", "rank": 2}),
    "factors-of-a-norm": treat(
        "low_rank",
        {"shape": [32], "dtype": "float32", "rank": 1, "embedding": False},
        path="vision_model.post_layernorm",
    ),
    "residual-of-an-embedding": treat(
        "residual", {"shape": [40, 32], "dtype": "float32", "rank": 4}, path="text_model.embeddings.token_embedding"
    ),
    "table-of-nothing": codebook("borrowed", table="__class__"),
    "table-of-its-own": codebook("borrowed", table=PATH),
    "table-of-a-plain-layer": codebook("borrowed", table="text_projection"),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_treatments_that_do_not_fit_the_model(case: str) -> None:
    module = make_miniature("clip")
    before = [name for name, _ in module.named_modules()]
    with pytest.raises(IntegrityError, match=r"recorded step 1 .* not recorded for this CLIPModel"):
        replay_(module, [BAD_FIT[case]])
    assert [name for name, _ in module.named_modules()] == before


def test_a_table_is_lent_by_who_has_one_that_fits() -> None:
    image, text = (f"{tower}_model.encoder.layers.{{}}.mlp.fc1".format for tower in ("vision", "text"))
    owner, other = (codebook("tower", path=path(1)) for path in (image, text))
    fair = codebook("borrowed", path=image(0), table=image(1))
    for step in (owner, other, fair):
        step["treat"]["options"]["shape"] = [64, 32]
    unlike = copy.deepcopy(fair)
    unlike["treat"]["options"]["bits"] = 3
    module: Any = make_miniature("clip")
    replay_(module, [owner, fair])
    one, two = (module.get_submodule(image(i)).stored for i in (0, 1))
    assert one.table is two.levels and "levels" not in one.state_dict()
    chain = copy.deepcopy(fair)
    chain["treat"] |= {"path": text(0), "table": image(0)}
    for steps, reason in (
        ([owner, unlike], "step 2 lets .* use the table of .*, which has none that fits"),
        ([owner, fair, chain], "step 3 lets .* which has none that fits"),
        ([fair, owner], "step 1 lets .* which has none that fits"),
        ([owner, fair, drop("image", [0])], "step 3 drops blocks of image that others use a weight or a table of"),
    ):
        with pytest.raises(IntegrityError, match=reason):
            replay_(make_miniature("clip"), steps)
    replay_(make_miniature("clip"), [owner, fair, drop("text", [0])])


def test_steps_take_no_memory_and_follow_one_another() -> None:
    """Factors can be cut and quantized; what has no values yet lies on the meta device."""
    path = "vision_model.encoder.layers.0.mlp.fc1"
    module: Any = make_miniature("clip")
    up = copy.deepcopy(low_rank(4, [64, 32]))
    up["treat"]["path"] = path
    first = quantized(path=f"{path}.first", options_shape=[4, 32])
    replay_(module, [up, cut("image.0.neurons", list(range(32))), first])
    layer = module.get_submodule(path)
    assert layer.second.weight.shape == (32, 4) and layer.first.stored.codes.is_meta
    assert module.get_submodule(path.replace("fc1", "fc2")).weight.shape == (32, 32)


def test_links_of_a_convolution_are_replayed_and_may_be_chains_themselves() -> None:
    path = "vision_model.embeddings.patch_embedding"
    module: Any = make_miniature("clip")
    whole = treat("tucker", {"shape": [32, 3, 8, 8], "dtype": "float32", "ranks": [2, 5]}, path=path)
    inner = treat("cp", {"shape": [5, 2, 8, 8], "dtype": "float32", "rank": 4}, path=f"{path}.second")
    first = quantized(path=f"{path}.second.fourth", options_shape=[5, 4, 1, 1], options_group=4)
    replay_(module, [whole, inner, first])
    links = module.get_submodule(path)
    assert links.second.second.groups == 4 and links.second.second.stride == (8, 1)
    assert links.second.fourth.stored.codes.is_meta and links.first.weight.is_meta and links.stride == (8, 8)


@pytest.mark.parametrize("kind", ["low_rank", "tucker", "cp"])
def test_grouped_convolutions_have_no_chains(kind: str) -> None:
    ranks = {"low_rank": {"rank": 2, "embedding": False}, "tucker": {"ranks": [2, 2]}, "cp": {"rank": 2}}[kind]
    module = nn.Sequential(nn.Conv1d(8, 4, 3, groups=2))
    with pytest.raises(IntegrityError, match=r"factorises 0, a Conv1d, as another kind of layer"):
        replay_(module, [treat(kind, {"shape": [4, 4, 3], "dtype": "float32", **ranks}, path="0")])


def test_real_size_is_replayed_without_memory() -> None:
    """A step for a matrix of some gigabytes costs nothing until tensors are loaded."""
    with torch.device("meta"):
        module = CLIPModel(CLIPConfig(projection_dim=2**20))
    rows = 2**20
    step = quantized(options_shape=[rows, 768], options_group=768)
    replay_(module, [step])
    assert module.visual_projection.stored.codes.is_meta


STORED = st.sampled_from([
    quantized(), quantized(options_kept=7), codebook("tower"), codebook("borrowed", table="a"), sparse(40, [16, 32]),
    low_rank(4, [16, 32]), treat("dense", {"shape": [16, 32], "dtype": "float16"}),
])  # fmt: skip


@given(STORED, st.text(), st.lists(st.text()), st.none() | st.integers(0, 2**40))
def test_what_is_written_is_read(step: Any, path: str, tied: list[str], bias: int | None) -> None:
    step = {"treat": {**step["treat"], "path": path, "tied": tied, "bias": None if bias is None else [bias]}}
    assert read_edit(step, SIZE).to_json() == step


def _dense(path: str, bias: tuple[int, ...] | None = None) -> TreatWeight:
    return TreatWeight(path, "dense", {"shape": [4, 4], "dtype": "float32"}, (), bias)


def test_a_later_treatment_takes_the_place_of_an_earlier_one() -> None:
    steps: list[ModelEdit] = []
    for edit in (_dense("a", (4,)), _dense("b"), _dense("a")):
        edit.record_(steps)
    assert steps == [_dense("b"), _dense("a", (4,))]  # the bias that was given stays
    _dense("a", (5,)).record_(steps)
    assert steps == [_dense("b"), _dense("a", (5,))]
    for edit in (DropBlocks("text", (1,)), _dense("b")):  # by now `b` is another layer
        edit.record_(steps)
    assert steps == [_dense("b"), _dense("a", (5,)), DropBlocks("text", (1,)), _dense("b")]


def test_the_site_takes_the_bytes_of_its_storage() -> None:
    before = find_layout(make_miniature("clip"))
    edit = read_edit(quantized(bias=[16]), SIZE)
    after = edit.layout_after(before).get_site(PATH)
    assert (after.stored, after.bias) == ("quantized", True) and not before.get_site(PATH).bias
    assert after.stored_bytes == 16 * 32 // 2 + 16 * 2 + 16 * 4  # codes of 4 bits, a scale in half precision per row, the bias
    factors = read_edit(low_rank(4, [16, 32], ), SIZE).layout_after(before).sites
    assert [(site.path, site.shape) for site in factors if site.path.startswith(PATH)] == [
        (f"{PATH}.first", (4, 32)), (f"{PATH}.second", (16, 4)),
    ]  # fmt: skip


def test_what_packing_is_told() -> None:
    grid, masked, plain = (read_edit(step, SIZE) for step in (quantized(), quantized(options_kept=7), low_rank(4, [16, 32])))
    assert grid.list_packed_codes() == {f"{PATH}.stored.codes": (4, 32)}
    assert masked.list_packed_codes() == {f"{PATH}.stored.codes": (4, 7), f"{PATH}.stored.mask": (1, 32)}
    assert plain.list_packed_codes() == {}


def test_only_weights_of_the_type_that_is_replaced_are_decoded_as_another() -> None:
    edit = read_edit(quantized(), SIZE)
    assert edit.with_dtype("float32", "float16").to_json() == quantized(options_dtype="float16")
    assert edit.with_dtype("bfloat16", "float16") is edit


def test_factors_are_parts_of_the_layer_that_was_factorised() -> None:
    layout = find_layout(make_miniature("clip"))
    assert [_dense(path).find_touched_paths(layout) for path in ("a.second.fourth", "a.base", "a.first.weights")] == [
        {"a"}, {"a"}, {"a.first.weights"},
    ]  # fmt: skip

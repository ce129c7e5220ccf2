"""Hostile steps in the metadata of the weights: a clear error, nothing built, no code run, no memory taken."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel

from trimodal.edits.steps import STEPS, read_steps
from trimodal.errors import IntegrityError
from trimodal.networks.tiny import make_miniature
from trimodal.stock.replaying import replay_steps_

PATH = "visual_projection"
HUGE = 2**62


def treat(kind: str, options: Any, /, **changes: Any) -> dict[str, Any]:
    step = {"path": PATH, "kind": kind, "options": options, "tied": [], "bias": None}
    return {"treat": {**step, **changes}}


def quantized(**changes: Any) -> dict[str, Any]:
    """A fair step for the projection (16, 32) of the CLIP miniature, with `changes` anywhere in it."""
    options = {
        "bits": 4, "group": 32, "exponent": -3, "zero": None, "shared": False, "shape": [16, 32], "dtype": "float32",
    }  # fmt: skip
    inside = {key.removeprefix("options_"): value for key, value in changes.items() if key.startswith("options_")}
    outside = {key: value for key, value in changes.items() if not key.startswith("options_")}
    return treat("quantized", {**options, **inside}, **outside)


def codebook(tables: str, **changes: Any) -> dict[str, Any]:
    options = {
        "bits": 4, "group": 32, "exponent": 0, "tables": tables, "scaled": True, "shape": [16, 32], "dtype": "float32",
    }  # fmt: skip
    return treat("codebook", options, **changes)


def low_rank(rank: Any, shape: Any, **options: Any) -> dict[str, Any]:
    return treat("low_rank", {"shape": shape, "dtype": "float32", "rank": rank, "embedding": False, **options})


def merge(**changes: Any) -> dict[str, Any]:
    """A fair merge of the CLIP miniature's image tokens, with `changes`."""
    how = {"tower": "image", "kind": "matching", "share": 0.5, "first": 0, "last": 0, "proportional": True}
    return {"merge": {**how, **changes}}


def sparse(kept: Any, shape: Any) -> dict[str, Any]:
    return treat("sparse", {"shape": shape, "dtype": "float32", "kept": kept})


@pytest.fixture(scope="module")
def file_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    """A file of some 40 KB whose metadata holds what is given, as JSON unless it is text."""
    folder = tmp_path_factory.mktemp("steps")

    def write(steps: Any) -> Path:
        file = folder / "trimodal.safetensors"
        text = steps if isinstance(steps, str) else json.dumps(steps)
        save_file({"a": torch.zeros(10_000)}, file, {"format": "pt", STEPS: text})
        return file

    return write


BAD_FORM: Mapping[str, Any] = {
    "not-json": "[{",
    "deep": "[" * 50_000,
    "no-list": {"treat": {}},
    "number": [7],
    "other-verb": [{"run": {"path": "os.system"}}],
    "two-verbs": [{"cut": {}, "treat": {}}],
    "cut-of-text": [{"cut": "all"}],
    "cut-without-label": [{"cut": {"kept": [0]}}],
    "cut-of-fractions": [{"cut": {"label": "image.0.heads", "kept": [0.5]}}],
    "cut-of-negatives": [{"cut": {"label": "image.0.heads", "kept": [-1]}}],
    "merge-of-text": [{"merge": "image"}],
    "merge-without-share": [{"merge": {"tower": "image"}}],
    "merge-with-more": [merge(hook="os.system")],
    "merge-of-number": [merge(tower=1)],
    "merge-by-other-means": [merge(kind="random")],
    "merge-of-all": [merge(share=1.0)],
    "merge-of-nan": [merge(share=float("nan"))],
    "merge-of-share-in-words": [merge(share="half")],
    "merge-before-the-first": [merge(first=-1)],
    "merge-backwards": [merge(first=1)],
    "merge-with-half-attention": [merge(proportional=1)],
    "drop-of-text": [{"drop": "image"}],
    "drop-without-tower": [{"drop": {"kept": [0]}}],
    "drop-of-negatives": [{"drop": {"tower": "image", "kept": [-1]}}],
    "drop-with-more": [{"drop": {"tower": "image", "kept": [0], "code": "print()"}}],
    "share-of-text": [{"share": "image"}],
    "share-of-numbers": [{"share": {"paths": [1, 2]}}],
    "share-alone": [{"share": {"paths": ["a"]}}],
    "share-with-itself": [{"share": {"paths": ["a", "a"]}}],
    "residual-of-a-kernel": [treat("residual", {"shape": [16, 32, 3], "dtype": "float32", "rank": 1})],
    "residual-beyond": [treat("residual", {"shape": [16, 32], "dtype": "float32", "rank": 17})],
    "unknown-kind": [quantized(kind="pickled")],
    "kind-of-list": [quantized(kind=["quantized"])] ,
    "further-key": [{"treat": {**quantized()["treat"], "code": "print()"}}],
    "path-of-number": [quantized(path=3)],
    "dtype-of-torch": [quantized(options_dtype="load")],
    "dtype-of-list": [quantized(options_dtype=["float32"])],
    "huge-shape": [quantized(options_shape=[HUGE, HUGE])],
    "larger-than-the-file": [low_rank(100_000, [16, 32])],
    "negative": [quantized(options_shape=[-16, 32])],
    "shape-of-text": [quantized(options_shape="16")],
    "no-shape": [quantized(options_shape=None)],
    "further-option": [quantized(options_forward=1)],
    "zeros-of-text": [quantized(options_zero="uint64")],
    "rotation-of-no-power-of-two": [quantized(options_rotation=12)],
    "rotation-beyond": [quantized(options_rotation=64)],
    "columns-of-number": [quantized(options_columns=1)],
    "more-outliers-than-weights": [quantized(options_outliers=16 * 32 + 1)],
    "rank-of-fractions": [quantized(options_rank=0.5)],
    "more-kept-than-weights": [sparse(16 * 32 + 1, [16, 32])],
    "sparse-with-parts": [treat("sparse", {"shape": [16, 32], "dtype": "float32", "kept": 4, "rank": 1})],
    "low-rank-of-a-kernel-as-embedding": [low_rank(4, [16, 32, 3], embedding=True)],
    "tucker-of-a-matrix": [treat("tucker", {"shape": [16, 32], "dtype": "float32", "ranks": [2, 2]})],
    "tucker-with-one-rank": [treat("tucker", {"shape": [16, 32, 3], "dtype": "float32", "ranks": [2]})],
    "cp-larger-than-the-file": [treat("cp", {"shape": [16, 32, 3], "dtype": "float32", "rank": 10**9})],
    "codebook-without-tables": [treat("codebook", {"shape": [16, 32], "dtype": "float32", "bits": 4})],
    "bits-0": [quantized(options_bits=0)],
    "bits-64": [quantized(options_bits=64)],
    "bits-yes": [quantized(options_bits=True)],
    "group-0": [quantized(options_group=0)],
    "exponent": [quantized(options_exponent=10**9)],
    "exponent-text": [quantized(options_exponent="3")],
    "bias-of-text": [quantized(bias="16")],
    "bias-of-two": [quantized(bias=[4, 4])],
    "tied-to-number": [quantized(tied=[1])],
    "table-of-nobody": [codebook("borrowed")],
    "table-of-a-number": [codebook("borrowed", table=1)],
    "table-that-is-not-borrowed": [codebook("tower", table="a")],
    "table-for-a-grid": [quantized(table="a")],
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FORM)
def test_steps_of_no_known_form(case: str, file_with: Callable[[Any], Path]) -> None:
    with pytest.raises(IntegrityError, match=r"trimodal.safetensors"):
        read_steps(file_with(BAD_FORM[case]))


def test_fair_steps_are_read(file_with: Callable[[Any], Path]) -> None:
    steps = [
        quantized(),
        low_rank(4, [16, 32]),
        sparse(40, [16, 32]),
        treat("tucker", {"shape": [16, 32, 3], "dtype": "float32", "ranks": [4, 4]}),
        treat("cp", {"shape": [16, 32, 3, 3], "dtype": "float32", "rank": 4}),
        treat("integers", {"shape": [16, 32], "dtype": "float16", "exponent": 0, "rotation": 8}),
        {"cut": {"label": "image.0.heads", "kept": [0, 2]}},
        merge(),
        {"drop": {"tower": "image", "kept": [1]}},
        {"share": {"paths": ["a", "b"]}},
        treat("residual", {"shape": [16, 32], "dtype": "float32", "rank": 4}),
        codebook("tower"),
        codebook("borrowed", table="a"),
    ]
    assert read_steps(file_with(steps)) == steps


def test_file_of_somebody_else(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(IntegrityError, match="does not say how it was compressed"):
        read_steps(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(IntegrityError, match="damaged or cut short"):
        read_steps(tmp_path / "model.safetensors")


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
    "cut-of-nothing": {"cut": {"label": "__dict__", "kept": [0]}},
    "cut-of-all": {"cut": {"label": "image.0.heads", "kept": []}},
    "cut-beyond": {"cut": {"label": "image.0.heads", "kept": [0, 4]}},
    "cut-of-a-stream-beyond": {"cut": {"label": "image.width", "kept": [0, 32]}},
    "cut-of-no-stream": {"cut": {"label": "fusion.width", "kept": [0]}},
    "merge-of-no-tower": merge(tower="__class__"),
    "merge-of-words": merge(tower="text"),
    "merge-beyond": merge(last=2),
    "drop-of-no-tower": {"drop": {"tower": "__class__", "kept": [0]}},
    "drop-of-all": {"drop": {"tower": "image", "kept": []}},
    "drop-beyond": {"drop": {"tower": "image", "kept": [0, 2]}},
    "drop-in-another-order": {"drop": {"tower": "image", "kept": [1, 0]}},
    "share-outside": {"share": {"paths": [PATH, "__class__"]}},
    "share-of-another-shape": {"share": {"paths": [PATH, "text_projection.weight"]}},
    "share-of-norms": {"share": {"paths": [f"vision_model.{norm}" for norm in ("pre_layrnorm", "post_layernorm")]}},
    "residual-of-an-embedding": treat(
        "residual", {"shape": [40, 32], "dtype": "float32", "rank": 4}, path="text_model.embeddings.token_embedding"
    ),
    "table-of-nothing": codebook("borrowed", table="__class__"),
    "table-of-its-own": codebook("borrowed", table=PATH),
    "table-of-a-plain-layer": codebook("borrowed", table="text_projection"),
    "cut-twice-the-same": {"cut": {"label": "image.0.heads", "kept": [1, 1]}},
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_steps_that_do_not_fit_the_model(case: str) -> None:
    module = make_miniature("clip")
    before = [name for name, _ in module.named_modules()]
    with pytest.raises(IntegrityError, match=r"recorded step 1 .* not recorded for this CLIPModel"):
        replay_steps_(module, [BAD_FIT[case]])
    assert [name for name, _ in module.named_modules()] == before


def test_cut_where_the_weight_is_packed() -> None:
    path = "vision_model.encoder.layers.0.self_attn.q_proj"
    first = quantized(path=path, options_shape=[32, 32])
    with pytest.raises(IntegrityError, match=r"recorded step 2 cuts 'image.0.heads' where a weight is no longer plain"):
        replay_steps_(make_miniature("clip"), [first, {"cut": {"label": "image.0.heads", "kept": [0]}}])


def test_merged_towers_and_stages_keep_their_blocks() -> None:
    drop = {"drop": {"tower": "image", "kept": [0]}}
    with pytest.raises(IntegrityError, match="step 2 drops blocks of image: its tokens are merged block by block"):
        replay_steps_(make_miniature("clip"), [merge(), drop])
    with pytest.raises(IntegrityError, match="step 1 drops blocks of image: its blocks come in stages"):
        replay_steps_(make_miniature("resnet"), [drop])


def test_what_is_shared_is_nobodys_own() -> None:
    paths = [f"vision_model.encoder.layers.{i}.self_attn.q_proj" for i in (0, 1)]
    share = {"share": {"paths": paths}}
    for step, reason in (
        ({"cut": {"label": "image.0.heads", "kept": [0]}}, "cuts 'image.0.heads' where a weight is shared"),
        ({"cut": {"label": "image.1.heads", "kept": [0]}}, "cuts 'image.1.heads' where a weight is no longer plain"),
        (share, "share a weight, which is no plain linear layer"),
        (quantized(path=paths[1], options_shape=[32, 32]), "which uses another layer's weight"),
    ):
        with pytest.raises(IntegrityError, match=f"recorded step 2 .*{reason}"):
            replay_steps_(make_miniature("clip"), [share, step])


def test_a_table_is_lent_by_who_has_one_that_fits() -> None:
    image, text = (f"{tower}_model.encoder.layers.{{}}.mlp.fc1".format for tower in ("vision", "text"))
    owner, other = (codebook("tower", path=path(1)) for path in (image, text))
    fair = codebook("borrowed", path=image(0), table=image(1))
    for step in (owner, other, fair):
        step["treat"]["options"]["shape"] = [64, 32]
    unlike = copy.deepcopy(fair)
    unlike["treat"]["options"]["bits"] = 3
    module: Any = make_miniature("clip")
    replay_steps_(module, [owner, fair])
    one, two = (module.get_submodule(image(i)).stored for i in (0, 1))
    assert one.table is two.levels and "levels" not in one.state_dict()
    chain = copy.deepcopy(fair)
    chain["treat"] |= {"path": text(0), "table": image(0)}
    drop = {"drop": {"tower": "image", "kept": [0]}}
    for steps, reason in (
        ([owner, unlike], "step 2 lets .* use the table of .*, which has none that fits"),
        ([owner, fair, chain], "step 3 lets .* which has none that fits"),
        ([fair, owner], "step 1 lets .* which has none that fits"),
        ([owner, fair, drop], "step 3 drops blocks of image that others use a weight or a table of"),
    ):
        with pytest.raises(IntegrityError, match=reason):
            replay_steps_(make_miniature("clip"), steps)
    replay_steps_(make_miniature("clip"), [owner, fair, {"drop": {"tower": "text", "kept": [0]}}])


def test_tokens_are_merged_once() -> None:
    with pytest.raises(IntegrityError, match=r"recorded step 2 merges tokens of image: its tokens are merged already"):
        replay_steps_(make_miniature("clip"), [merge(), merge()])


def test_steps_take_no_memory_and_follow_one_another() -> None:
    """Factors can be cut and quantized; what has no values yet lies on the meta device."""
    path = "vision_model.encoder.layers.0.mlp.fc1"
    module: Any = make_miniature("clip")
    up = copy.deepcopy(low_rank(4, [64, 32]))
    up["treat"]["path"] = path
    first = quantized(path=f"{path}.first", options_shape=[4, 32])
    replay_steps_(module, [up, {"cut": {"label": "image.0.neurons", "kept": list(range(32))}}, first])
    layer = module.get_submodule(path)
    assert layer.second.weight.shape == (32, 4) and layer.first.stored.codes.is_meta
    assert module.get_submodule(path.replace("fc1", "fc2")).weight.shape == (32, 32)


def test_links_of_a_convolution_are_replayed_and_may_be_chains_themselves() -> None:
    path = "vision_model.embeddings.patch_embedding"
    module: Any = make_miniature("clip")
    whole = treat("tucker", {"shape": [32, 3, 8, 8], "dtype": "float32", "ranks": [2, 5]}, path=path)
    inner = treat("cp", {"shape": [5, 2, 8, 8], "dtype": "float32", "rank": 4}, path=f"{path}.second")
    first = quantized(path=f"{path}.second.fourth", options_shape=[5, 4, 1, 1], options_group=4)
    replay_steps_(module, [whole, inner, first])
    links = module.get_submodule(path)
    assert links.second.second.groups == 4 and links.second.second.stride == (8, 1)
    assert links.second.fourth.stored.codes.is_meta and links.first.weight.is_meta and links.stride == (8, 8)


@pytest.mark.parametrize("kind", ["low_rank", "tucker", "cp"])
def test_grouped_convolutions_have_no_chains(kind: str) -> None:
    ranks = {"low_rank": {"rank": 2, "embedding": False}, "tucker": {"ranks": [2, 2]}, "cp": {"rank": 2}}[kind]
    module = nn.Sequential(nn.Conv1d(8, 4, 3, groups=2))
    with pytest.raises(IntegrityError, match=r"factorises 0, a Conv1d, as another kind of layer"):
        replay_steps_(module, [treat(kind, {"shape": [4, 4, 3], "dtype": "float32", **ranks}, path="0")])


def test_real_size_is_replayed_without_memory() -> None:
    """A step for a matrix of some gigabytes costs nothing until tensors are loaded."""
    with torch.device("meta"):
        module = CLIPModel(CLIPConfig(projection_dim=2**20))
    rows = 2**20
    step = quantized(options_shape=[rows, 768], options_group=768)
    replay_steps_(module, [step])
    assert module.visual_projection.stored.codes.is_meta


def test_metadata_survives(file_with: Callable[[Any], Path]) -> None:
    assert load_file(file_with([]))["a"].shape == (10_000,) and read_steps(file_with([])) == []

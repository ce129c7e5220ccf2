"""What every method owes on every kind of model: the bytes it forecast, nothing else touched, a model that runs, the
same result from the same seed, and an artifact that reloads to the same outputs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.core import Layout, Site
from trimodal.core.site import is_width
from trimodal.edits import TreatWeight, read_edit
from trimodal.edits.apply import dequantize_module_
from trimodal.edits.cut import cut_units_
from trimodal.edits.steps import replay_step_
from trimodal.errors import RecipeError
from trimodal.formats import open_model, write_artifact
from trimodal.formats.reload_check import collect_outputs
from trimodal.layers import FactorChain, is_weight_parametrized, open_layers_
from trimodal.methods import METHODS
from trimodal.models.model import Model
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.networks.tiny import MINIATURES, PLAIN, make_miniature, make_miniature_batch, write_miniature

OPTIONS: dict[str, dict[str, Any]] = {
    "quantize.rtn": {"bits": 4, "clip": "max"},
    "quantize.gptq": {"bits": 3, "group": 16, "grid": "asymmetric", "clip": "max"},
    "quantize.smooth": {"clip": "max", "strength": 0.5},
    "quantize.awq": {"bits": 3, "clip": "max"},
    "quantize.rotated": {"bits": 4, "clip": "max", "feedback": False},
    "quantize.hqq": {"bits": 3, "group": 16, "steps": 3},
    "quantize.learned": {"bits": 4, "clip": "max", "steps": 3},
    "factorize.cp": {"sweeps": 5},
    "prune.layers": {"sparsity": 0.5, "score": "divergence"},
    "share.layers": {"rank": 2},
    "distill": {"steps": 2},
    "train.quantized": {"steps": 2},
    "distill.lora": {"steps": 2, "rank": 2, "batch": 8},
}
BEFORE: dict[str, list[Any]] = {"train.quantized": [{"quantize.smooth": {"clip": "max", "strength": 0.5, "bits": 4}}]}  # what it works on
QUANTIZE_INPUTS = ("quantize.smooth",)  # of which a plain float layer keeps only the weight
DROPS_BLOCKS = ("prune.layers",)  # and with them names in the state dict
FOLDS = ("fold.exact",)  # of which other tensors are left
STATES_DIFFER = ("merge.tokens", "prune.tokens", "prune.width")  # those that an encoder hands out beside what it is for: fewer, narrower
LEARNS = ("distill", "distill.lora")  # from the original, and so nothing as long as it equals it
KEEPS_BYTES = ("merge.tokens", "prune.tokens", "distill.lora")  # fewer operations or other values, as many weights
NO_KERNELS = r"nothing that '\*' matches can be worked on"
NO_UNITS = "this model has no {} that can be cut"
TEXT = ("bert", "llama", "qwen3", "gpt2", "t5", "mixtral")
UNITS: dict[str, tuple[str, ...]] = {"resnet": ("channels",), "resnet-basic": ("channels",),
                                     "generic": ("channels", "neurons"), "lstm": ("channels", "neurons")}  # fmt: skip
REFUSED = {
    (name, f"prune.{unit}"): NO_UNITS.format(unit)
    for name in MINIATURES
    for unit in ("neurons", "heads", "channels")
    if unit not in UNITS.get(name, ("neurons", "heads"))
} | {
    **dict.fromkeys(
        ((name, "merge.tokens") for name in (*TEXT, "resnet", "resnet-basic", "generic")),
        "nobody has declared how its tokens could be merged",
    ),
    **dict.fromkeys(
        ((name, "prune.tokens") for name in MINIATURES if name != "llava"), "no decoder reads its tokens in the place of placeholders",
    ),
    ("llava", "merge.tokens"): "one placeholder for every patch",
    ("qwen2-vl", "merge.tokens"): "one placeholder for every patch",
    **dict.fromkeys((("clap", "merge.tokens"), ("swin", "merge.tokens")), "windows of a fixed grid"),
    ("swin", "prune.layers"): "every other one shifts its windows",
    ("swin", "prune.width"): "its stages are of different width",
    ("lstm", "merge.tokens"): "only the tokens of a tower with blocks",
    ("lstm", "prune.layers"): "only a tower with blocks can lose some",
    ("generic", "prune.layers"): "nobody has declared that its blocks only pass on",
    **dict.fromkeys(
        ((name, "share.layers") for name in ("resnet", "resnet-basic", "generic")),
        "no plain linear layer is of one shape in blocks that could share it",
    ),
    ("lstm", "share.layers"): "only layers of a tower with blocks can share",
    ("resnet", "prune.layers"): "its blocks come in stages of different width",
    ("resnet-basic", "prune.layers"): "its blocks come in stages of different width",
    ("bert", "fold.exact"): "not only linear layers read it: add",
    ("wav2vec2", "fold.exact"): "not only linear layers read it",
    ("lstm", "fold.exact"): "nothing was seen that could be folded",
    ("t5", "prune.layers"): "holds the table of positions that all others use",
    ("dinov2", "prune.layers"): "hold the scales of LayerScale",
    ("dinov2", "prune.width"): "its classifier reads every dimension twice",
    ("bert", "prune.width"): "the model hands out last_hidden_state",
    ("wav2vec2", "prune.width"): "works in groups of its dimensions",
    **dict.fromkeys(((name, "prune.width") for name in ("resnet", "resnet-basic")), "stages are of different width"),
    **dict.fromkeys(((name, "prune.width") for name in PLAIN), NO_UNITS.format("width")),
    **dict.fromkeys(((name, "train.quantized") for name in MINIATURES), "no step before it quantizes anything"),
} | {
    (name, method): NO_KERNELS for name in (*TEXT, "qwen2-vl") for method in ("factorize.tucker", "factorize.cp")
}  # fmt: skip
EVERY = [(name, method.name) for name in MINIATURES for method in METHODS]
TAKEN = [case for case in EVERY if case not in REFUSED]




@pytest.fixture(scope="module", params=TAKEN, ids="-".join)
def case(request: pytest.FixtureRequest, compressed: Callable[..., Any]) -> Iterator[Any]:
    """One method on all of one miniature; one worker runs all tests of it."""
    name, method = request.param
    yield compressed(name, [{method: OPTIONS.get(method, {})}])


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path | None]:
    """The miniature's folder, written once; None for the module without a configuration."""
    written: dict[str, Path | None] = dict.fromkeys(PLAIN)

    def folder(name: str) -> Path | None:
        if name not in written:
            written[name] = write_miniature(name, tmp_path_factory.mktemp(name))
        return written[name]

    return folder


def state(model: Model) -> dict[str, Tensor]:
    return dict(model.module.state_dict())


def name_of(case: Any) -> str:
    name: str = case.plan.source.name
    return name


def fresh(case: Any) -> Mapping[str, Tensor]:
    return make_miniature_batch(name_of(case), 3, seed=9)


def held(module: nn.Module, site: Site) -> int:
    """Bytes of the tensors that a site really holds."""
    layer = module.get_submodule(site.path)
    if site.stored == "shared":  # the weight is held where it first runs
        return tensor_bytes([layer.bias] if isinstance(layer.bias, Tensor) else [])
    parts = [layer, *([layer.stored] if is_weight_parametrized(layer) else [])]
    tensors = [t for part in parts for t in (*part._parameters.values(), *part._buffers.values()) if t is not None]  # type: ignore[union-attr]
    if site.kind == "norm":
        kept = {**layer._parameters, **layer._buffers}
        names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        tensors = [tensor for tensor in map(kept.get, names) if tensor is not None]
    return tensor_bytes(tensors)


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor], tolerance: float = 0.0) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].shape == b[key].shape and a[key].dtype == b[key].dtype, key
        if tolerance:
            scale = float(a[key].double().abs().max()) if a[key].numel() else 0.0
            assert torch.allclose(a[key].double(), b[key].double(), rtol=0, atol=tolerance * max(scale, 1.0)), key
        else:
            assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize(("name", "method"), REFUSED)
def test_known_refusals_are_errors_with_a_reason(compressed: Any, name: str, method: str) -> None:
    with pytest.raises(RecipeError, match=REFUSED[name, method]):
        compressed(name, [{method: {}}])


def test_bytes_are_those_forecast(case: Any) -> None:
    assert tensor_bytes(unique_tensors(case.model.module).values()) == case.plan.expected_tensor_bytes
    assert case.model.layout == case.expected
    for site in case.model.layout.sites:
        assert held(case.model.module, site) == site.stored_bytes, site.path
    (edit,) = case.plan.edits
    before, after = (sum(getattr(p, f"bytes_{when}") for p in edit.places) for when in ("before", "after"))
    if edit.method in KEEPS_BYTES:
        assert after == before
    elif edit.places:
        assert after < before


def test_nothing_else_is_touched(case: Any) -> None:
    (edit,) = case.plan.edits
    if edit.method == "distill":
        assert state(case.model).keys() == state(case.original).keys()
        return
    paths = {path for place in edit.places for path in place.paths}
    touched = paths | {tied for path in paths for tied in case.original.layout.get_site(path).tied}
    touched |= {place.fold.path for place in edit.places if place.fold is not None}  # a scale that is folded is no site
    labels = {place.name for place in edit.places}
    bare = {bare.path for bare in case.original.layout.free_parameters if bare.label in labels}
    before, after = state(case.original), state(case.model)
    left = {key for key in before if key.rpartition(".")[0] not in touched and key not in bare}
    assert left <= after.keys()
    assert all(torch.equal(before[key], after[key]) for key in left)
    kinds = {before[key].dtype for key in before} | {torch.uint8, torch.float16, torch.int8, torch.int32}
    assert {value.dtype for value in after.values()} <= kinds
    own = {key for key in after if any(key.startswith(f"{path}.") for path in touched)}
    assert after.keys() - left == own | bare


def test_the_original_is_left_as_it_was(case: Any) -> None:
    equal(state(case.original), dict(open_layers_(make_miniature(name_of(case))).state_dict()))


def test_model_still_runs(case: Any) -> None:
    before, after = (collect_outputs(m.module, fresh(case)) for m in (case.original, case.model))
    if case.plan.edits[0].method in STATES_DIFFER:
        fields = {output.field for output in case.model.family.outputs(case.model.module)}
        before, after = ({key: value for key, value in side.items() if key in fields} for side in (before, after))
    assert before and {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}
    assert all(bool(value.isfinite().all()) for value in after.values() if value.is_floating_point())
    if case.plan.edits[0].method not in LEARNS:
        assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(("name", "method"), [case for case in TAKEN if case[1] in LEARNS])
def test_a_pruned_student_learns(name: str, method: str, compressed: Any) -> None:
    steps = [{"prune.magnitude": {"sparsity": 0.5}}, {method: OPTIONS[method]}]
    pruned, taught = compressed(name, steps[:1]), compressed(name, steps)
    before, after = (collect_outputs(done.model.module, fresh(done)) for done in (pruned, taught))
    assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(("name", "method"), TAKEN)
def test_same_seed_same_bytes(name: str, method: str, compressed: Any) -> None:
    one, other = (state(compressed(name, [{method: OPTIONS.get(method, {})}]).model) for _ in range(2))
    equal(one, other)


def test_artifact_reloads_to_the_same_outputs(case: Any, folders: Any, tmp_path: Path) -> None:
    folder = folders(name_of(case))
    write_artifact(replace(case.model, folder=folder), case.plan, tmp_path, None)
    again = open_model(tmp_path, factory=None if folder else lambda: make_miniature(name_of(case)))
    assert again.layout == case.model.layout
    assert [step for step in case.model.steps if step in again.steps] == again.steps  # the configuration says the others
    expected = collect_outputs(case.model.module, fresh(case))
    equal(collect_outputs(again.module, fresh(case)), expected)
    dequantize_module_(again.module)
    assert not any(is_weight_parametrized(part) or isinstance(part, FactorChain) for part in again.module.modules())
    (edit,) = case.plan.edits
    if edit.method not in QUANTIZE_INPUTS:
        equal(collect_outputs(again.module, fresh(case)), expected, 1e-5)
    if edit.method not in FOLDS:
        names, whole = set(state(again)), set(state(case.original))
        assert names < whole if edit.method in DROPS_BLOCKS else names == whole


def test_recorded_steps_rebuild_the_architecture(case: Any) -> None:
    """Written and read, and carried out on the bare module, they give the names, shapes and types of the tensors, and the layout."""
    module, layout = open_layers_(make_miniature(name_of(case))), case.original.layout
    for number, step in enumerate(case.model.steps, start=1):
        again = read_edit(json.loads(json.dumps(step.to_json())), 1 << 40)
        assert again == step
        layout = replay_step_(module, layout, again, number)
    assert layout == case.model.layout
    found, expected = ({name: (t.shape, t.dtype) for name, t in part.state_dict().items()} for part in (module, case.model.module))
    assert found == expected


@pytest.mark.parametrize("name", MINIATURES)
def test_cut_with_the_consumer_unchanged_equals_masking(tiny_model: Callable[..., Model], name: str) -> None:
    """Kept units compute exactly what they did before: removing the others is the same as not listening to them."""
    model, batch = tiny_model(name), make_miniature_batch(name, 2)
    for label in (label for label in model.layout.list_labels() if not is_width(label)):  # norms run over those
        carrying = list(model.layout.find_label_sites(label))
        consumers = [site for site in carrying if site.reads_label(label)]
        axis = consumers[0].input_axis
        assert axis is not None
        kept = [unit for unit in range(axis.units_of(label)) if unit % 2]
        cut, masked = (copy.deepcopy(model.module) for _ in range(2))
        cut_units_(cut, model.layout, label, kept)
        for site in consumers:
            assert site.input_axis is not None
            gone = site.input_axis.entry_indices([u for u in range(axis.units_of(label)) if u not in kept], label)
            with torch.no_grad():
                masked.get_submodule(site.path).weight[:, gone] = 0.0  # type: ignore[index, operator]
        equal(collect_outputs(cut, batch), collect_outputs(masked, batch), 1e-5)
        assert producers_are_kept(model.layout, label, kept, model.module, cut)


def producers_are_kept(layout: Layout, label: str, kept: list[int], before: nn.Module, after: nn.Module) -> bool:
    for site in layout.find_label_sites(label):
        if site.writes_label(label) and site.output_axis is not None and site.kind != "embedding":
            rows = site.output_axis.kept_entry_indices(kept, label)
            old, new = (m.get_submodule(site.path) for m in (before, after))
            for key, parameter in old._parameters.items():
                if parameter is None:
                    continue
                left = parameter[rows]
                if key == "weight" and site.reads_label(label) and site.input_axis is not None:
                    left = left[:, site.input_axis.kept_entry_indices(kept, label)]
                if not torch.equal(left, new._parameters[key]):  # type: ignore[arg-type]
                    return False
    return True


@pytest.mark.parametrize("method", ["prune.magnitude", "prune.wanda", "prune.neurons", "prune.heads", "prune.channels"])
@pytest.mark.parametrize("name", ["clip", "whisper", "llama", "fusion", "resnet-basic"])
def test_removing_nothing_is_the_identity(compressed: Any, name: str, method: str) -> None:
    if (name, method) in REFUSED:
        return
    done = compressed(name, [{method: {"sparsity": 0.0}}])
    equal(collect_outputs(done.model.module, fresh(done)), collect_outputs(done.original.module, fresh(done)), 1e-4)


VARIANTS: list[dict[str, Any]] = [
    {"quantize.rtn": {"bits": 3, "grid": "kmeans"}},
    {"quantize.rtn": {"bits": 16, "grid": "asymmetric"}},
    {"quantize.gptq": {"bits": 3, "grid": "kmeans", "group": 16, "outliers": 0.01, "bias": True}},
    {"quantize.gptq": {"bits": 4, "grid": "nf", "clip": "max", "rank": 1}},
    {"quantize.rotated": {"bits": 3, "clip": "max"}},
    {"quantize.gptq": {"bits": 3, "grid": "kmeans", "table": "tower", "group": 16, "outliers": 0.01, "rank": 1}},
    {"quantize.rtn": {"bits": 3, "grid": "kmeans", "group": "tower", "bias": True}},
]


@pytest.mark.parametrize("step", VARIANTS, ids=str)
@pytest.mark.parametrize("name", ["llama", "resnet"])
def test_other_grids_and_repairs_reload_too(compressed: Any, folders: Any, tmp_path: Path, name: str, step: Any) -> None:
    done = compressed(name, [step])
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    assert done.model.layout == done.expected
    write_artifact(replace(done.model, folder=folders(name)), done.plan, tmp_path, None)
    again = open_model(tmp_path)
    equal(collect_outputs(again.module, fresh(done)), collect_outputs(done.model.module, fresh(done)))


@pytest.mark.parametrize(("name", "method"), [(name, method) for method in BEFORE for name in MINIATURES])
def test_what_works_on_other_steps_learns_and_reloads(
    compressed: Any, folders: Any, tmp_path: Path, name: str, method: str
) -> None:
    before, done = (compressed(name, steps) for steps in (BEFORE[method], [*BEFORE[method], {method: OPTIONS[method]}]))
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    assert done.model.layout == done.expected == before.expected
    old, new = state(before.model), state(done.model)
    assert old.keys() == new.keys() and any(not torch.equal(old[key], new[key]) for key in old)
    assert [(t.shape, t.dtype) for t in old.values()] == [(t.shape, t.dtype) for t in new.values()]
    folder = folders(name)
    write_artifact(replace(done.model, folder=folder), done.plan, tmp_path, None)
    again = open_model(tmp_path, factory=None if folder else lambda: make_miniature(name_of(done)))
    assert again.layout == done.model.layout
    equal(collect_outputs(again.module, fresh(done)), collect_outputs(done.model.module, fresh(done)))


PAIRS: list[dict[str, Any]] = [
    {"quantize.rtn": {"bits": 3, "where": "*", "outliers": 0.01}}, {"quantize.gptq": {"bits": 4, "grid": "nf", "group": 16, "rank": 1}},
    {"quantize.smooth": {"strength": 0.5}},
]  # fmt: skip


@pytest.mark.parametrize("step", PAIRS, ids=lambda step: str(next(iter(step))))
@pytest.mark.parametrize("name", ["clip", pytest.param("resnet", marks=pytest.mark.slow)])
def test_pairs_beside_codes_reload_too(compressed: Any, folders: Any, tmp_path: Path, name: str, step: Any) -> None:
    pair = {"distill.lora": {"where": "*", "optional": True, "rank": 1, "steps": 2, "init": "error", "dora": True}}
    done = compressed(name, [step, pair, {"distill": {"steps": 1, "train": "small"}}])
    assert done.plan.edits[1].places
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    assert done.model.layout == done.expected
    write_artifact(replace(done.model, folder=folders(name)), done.plan, tmp_path, None)
    again = open_model(tmp_path)
    assert again.layout == done.model.layout
    equal(collect_outputs(again.module, fresh(done)), collect_outputs(done.model.module, fresh(done)))


MASKED: list[list[Any]] = [
    [{"prune.magnitude": {"sparsity": 0.5}}, {"prune.magnitude": {"sparsity": 0.75}},
     {"quantize.rtn": {"bits": 3, "grid": "kmeans", "group": "tensor"}}, {"distill": {"steps": 1}}],
    [{"prune.wanda": {"sparsity": 0.5, "refit": False}}, {"distill": {"steps": 1}},
     {"prune.wanda": {"sparsity": 0.75, "refit": False}}, {"quantize.gptq": {"bits": 4, "group": 16, "bias": True}}],
    [{"prune.magnitude": {"sparsity": 0.5}},
     {"quantize.rtn": {"bits": 3, "grid": "kmeans", "table": "tower"}}, {"distill": {"steps": 1}}],
    [{"prune.magnitude": {"sparsity": 0.5}}, {"quantize.rtn": {"bits": 3}}, {"train.quantized": {"steps": 1}}],
]  # fmt: skip


@pytest.mark.parametrize("steps", MASKED, ids=["k-means", "gptq", "tower", "trained"])
@pytest.mark.parametrize("name", ["llama", "resnet", *(pytest.param(n, marks=pytest.mark.slow) for n in ("fusion", "lstm"))])
def test_masks_are_kept_by_every_later_step(
    compressed: Any, folders: Any, tmp_path: Path, name: str, steps: list[Any]
) -> None:
    pruned, done = compressed(name, steps[:-2]), compressed(name, steps)
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    assert done.model.layout == done.expected
    treated = [step.path for step in done.model.steps if isinstance(step, TreatWeight)]
    assert len(treated) == len(done.model.steps)
    assert len(treated) == len(set(treated))  # what a later step replaced is not replayed
    sites = [site for site in done.model.layout.sites if "kept" in _options(done, site.path)]
    assert sites
    for site in sites:
        before, after = (case.model.module.get_submodule(site.path).weight for case in (pruned, done))
        assert not ((after != 0) & (before == 0)).any(), site.path
    folder = folders(name)
    write_artifact(replace(done.model, folder=folder), done.plan, tmp_path, None)
    again = open_model(tmp_path, factory=None if folder else lambda: make_miniature(name_of(done)))
    assert again.layout == done.model.layout
    assert [step for step in done.model.steps if step in again.steps] == again.steps  # the configuration says the others
    equal(collect_outputs(again.module, fresh(done)), collect_outputs(done.model.module, fresh(done)))
    dequantize_module_(again.module)
    equal(collect_outputs(again.module, fresh(done)), collect_outputs(done.model.module, fresh(done)), 1e-5)


def _options(case: Any, path: str) -> Mapping[str, Any]:
    return next((s.options for s in case.model.steps if s.path == path), {})


CHAIN: list[Mapping[str, Any]] = [
    {"prune.neurons": {"sparsity": 0.5}}, {"prune.heads": {"sparsity": 0.5}}, {"distill": {"steps": 1}},
    {"factorize.eigen": {"where": "*.0.up", "sparsity": 0.25}}, {"prune.wanda": {"where": "*.1.up", "sparsity": 0.5}},
    {"quantize.rtn": {"where": "*embedding*", "bits": 8}}, {"quantize.gptq": {"where": "*", "bits": 4, "group": 16}},
]  # fmt: skip


@pytest.mark.parametrize("name", ["clip", "whisper", "llama", "llava", "fusion"])
def test_everything_after_another_reloads_too(compressed: Any, folders: Any, tmp_path: Path, name: str) -> None:
    done = compressed(name, CHAIN)
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    assert done.model.layout == done.expected
    write_artifact(replace(done.model, folder=folders(name)), done.plan, tmp_path, None)
    again = open_model(tmp_path)
    expected = collect_outputs(done.model.module, fresh(done))
    equal(collect_outputs(again.module, fresh(done)), expected)
    dequantize_module_(again.module)
    equal(collect_outputs(again.module, fresh(done)), expected, 1e-5)


KERNELS: list[Mapping[str, Any]] = [
    {"factorize.tucker": {"where": "*.1.conv", "rank_in": 5, "rank_out": 6}},
    {"factorize.cp": {"where": "*.1.second.conv", "rank": 8}},
    {"factorize.cp": {"where": "*.2.conv", "sparsity": 0.8}},
    {"quantize.gptq": {"where": "*", "bits": 4, "group": 16, "clip": "max"}},
]


def test_kernels_taken_apart_and_quantized_reload_too(compressed: Any, folders: Any, tmp_path: Path) -> None:
    """Also the depthwise links, which are rounded group by group."""
    done = compressed("resnet-basic", KERNELS)
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    assert done.model.layout == done.expected
    depthwise = [site for site in done.expected.sites if site.groups > 1]
    assert depthwise and all(site.stored == "quantized" for site in depthwise)
    write_artifact(replace(done.model, folder=folders("resnet-basic")), done.plan, tmp_path, None)
    again = open_model(tmp_path)
    expected = collect_outputs(done.model.module, fresh(done))
    equal(collect_outputs(again.module, fresh(done)), expected)
    dequantize_module_(again.module)
    equal(collect_outputs(again.module, fresh(done)), expected, 1e-5)
    assert sorted(state(again)) == sorted(state(done.original))

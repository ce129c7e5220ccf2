"""One table for a tower: by hand, stored once wherever it goes, trained as one, and better than what it replaces."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.core import Place, Site
from trimodal.edits.apply import dequantize_module_
from trimodal.errors import RecipeError, TrimodalError
from trimodal.formats import open_model, pack_weights_, write_artifact
from trimodal.layers import CodedWeight, is_weight_parametrized, make_weight_store
from trimodal.maths.codebook import fit_codebook, fit_shared_table, fit_to_table, gather_codebook_samples
from trimodal.maths.packing import pack_codes
from trimodal.methods import METHODS, get_method
from trimodal.methods.options import build_config
from trimodal.methods.quantize.gridded import RoundingOptions
from trimodal.methods.quantize.tower_codebook import assign_codebook_owner
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.networks.tiny import make_miniature_batch, write_miniature

TOWER: dict[str, Any] = {"bits": 3, "grid": "kmeans", "table": "tower"}
FORMS: list[dict[str, Any]] = [{"group": "channel"}, {"group": 16}, {"group": "tensor"}, {"group": "tower"}]


def stores(module: nn.Module) -> list[CodedWeight]:
    return [part.stored for part in module.modules() if is_weight_parametrized(part) and isinstance(part.stored, CodedWeight)]


def tables(module: nn.Module) -> list[Tensor]:
    """The different tables, each one object."""
    found = (store.table for store in stores(module) if store.kind == "codebook")
    return list({id(table): table for table in found}.values())


def lost(before: Tensor, after: Tensor) -> float:
    return float((before - after).square().sum() / before.square().sum())


def test_worked_example() -> None:
    layers = [torch.tensor([[1.0, 3.0]]), torch.tensor([[10.0, 30.0]])]
    plain = fit_shared_table([gather_codebook_samples(weight, "tower") for weight in layers], 1, scaled=False)
    assert plain.tolist() == pytest.approx([2.039801, 30.0], abs=1e-6)
    nearest = [plain[(weight[..., None] - plain).abs().argmin(-1)] for weight in layers]
    errors = [lost(weight, found) for weight, found in zip(layers, nearest, strict=True)]
    assert errors == pytest.approx([0.200317, 0.063365], abs=1e-6)
    scaled = fit_shared_table([gather_codebook_samples(weight, "channel") for weight in layers], 1, scaled=True)
    assert scaled.tolist() == pytest.approx([1 / 3, 1], abs=1e-7)


def test_counts_are_relative_and_weighted() -> None:
    """By hand: c = (1, 3), Σ c w² = 1 + 3·4 = 13; with a scale of 2 the numbers are 1/2 and 1, counted 4 times."""
    weight, importance = torch.tensor([[1.0, 2.0]]), torch.tensor([1.0, 3.0])
    plain, scaled = (gather_codebook_samples(weight, group, importance) for group in ("tower", "channel"))
    assert plain.values.tolist() == [1.0, 2.0] and plain.counts.tolist() == pytest.approx([1 / 13, 3 / 13])
    assert scaled.values.tolist() == [0.5, 1.0] and scaled.counts.tolist() == pytest.approx([4 / 13, 12 / 13])
    masked = gather_codebook_samples(weight, "tower", importance, torch.tensor([[False, True]]))
    assert masked.values.tolist() == [2.0] and masked.counts.tolist() == pytest.approx([1 / 4])


@pytest.mark.parametrize("group", ["tower", "channel"])
def test_a_large_weight_is_summed_up_with_hardly_a_difference(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(300, 256, generator=generator)
    weight[:, :64] = 0.0
    few = gather_codebook_samples(weight, group)
    assert len(few.values) < weight.numel() and few.numbers.sum() == weight.numel()
    assert few.numbers[few.values == 0].sum() == 300 * 64
    found = fit_shared_table([few], 4, scaled=group != "tower")
    monkeypatch.setattr("trimodal.maths.codebook._INTERVALS", 10**9)
    exact = fit_shared_table([gather_codebook_samples(weight, group)], 4, scaled=group != "tower")
    books = (fit_to_table(weight, levels, 4, group, "tower") for levels in (found, exact))
    errors = [lost(weight, book.decode(book.encode(weight))) for book in books]
    assert errors[0] < 1.01 * errors[1]
    assert 0.0 in found.tolist()


def test_what_is_all_zero_adds_nothing() -> None:
    layers = [torch.zeros(4, 8), torch.randn(4, 8)]
    both, one = (fit_shared_table([gather_codebook_samples(w, "channel") for w in some], 2, True) for some in (layers, layers[1:]))
    assert torch.equal(both, one)
    empty = fit_shared_table([gather_codebook_samples(layers[0], "channel")], 2, True)
    assert empty.isfinite().all()
    book = fit_to_table(layers[0], empty, 2, "channel", "tower")
    assert book.decode(book.encode(layers[0])).isfinite().all()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_with_scales_it_beats_a_table_known_by_name_and_one_without(bits: int) -> None:
    """The layers have other scales and other tails; rows of one layer too. A table per layer costs more of the file."""
    generator = torch.Generator().manual_seed(2)
    layers = []
    for scale in (0.02, 0.1, 0.5):
        rows = torch.rand(48, 1, generator=generator) + 0.3
        layers.append(scale * rows * torch.randn(48, 128, generator=generator))

    def error(books: list[Any]) -> float:
        return sum(lost(w, book.decode(book.encode(w))) for w, book in zip(layers, books, strict=True)) / len(layers)

    scaled = fit_shared_table([gather_codebook_samples(w, "channel") for w in layers], bits, True)
    plain = fit_shared_table([gather_codebook_samples(w, "tower") for w in layers], bits, False)
    with_scales = error([fit_to_table(w, scaled, bits, "channel", "tower") for w in layers])
    without = error([fit_to_table(w, plain, bits, "tower", "tower") for w in layers])
    known = error([fit_codebook(w, bits, "channel", "nf") for w in layers])
    own = error([fit_codebook(w, bits, "tensor", "kmeans") for w in layers])
    assert with_scales < (0.99 if bits == 4 else 0.95) * known  # which is made for normal weights, as these are
    assert with_scales < own < 0.8 * without


def test_who_stores_the_table() -> None:
    config = build_config(get_method("quantize.rtn").config, TOWER, "here")
    image, text = (Place(name, (Site(name, name[:-1], 0, "up", "linear", (8, 8)),)) for name in ("image0", "text0"))
    assert assign_codebook_owner(image, config, []).table == "tower"
    assert assign_codebook_owner(image, config, [(text, config)]).table == "tower"
    assert assign_codebook_owner(image, config, [(image, config)]).table == "borrowed"
    assert assign_codebook_owner(image, config, [(image, replace(config, bits=4))]).table == "tower"
    assert assign_codebook_owner(image, config, [(image, replace(config, group="tower"))]).table == "tower"
    own = replace(config, table="group")
    assert assign_codebook_owner(image, own, [(image, config)]) is own
    assert assign_codebook_owner(image, replace(own, group="tower"), []).table == "tower"


@pytest.mark.parametrize("how", FORMS, ids=str)
@pytest.mark.parametrize("name", ["quantize.rtn", "quantize.gptq"])
def test_stored_once_and_one_object(compressed: Any, name: str, how: Any) -> None:
    embedding = {"quantize.rtn": {"where": "*embedding*", "bits": 8}}
    steps = [embedding] if name == "quantize.gptq" else []
    done = compressed("clip", [*steps, {name: {**TOWER, **how}}])
    module = done.model.module
    assert len(tables(module)) == 2  # image and text
    assert sum(key.endswith("stored.levels") for key in module.state_dict()) == 2
    owners = {place.paths[0] for place in done.plan.edits[-1].places if place.config.get("table", "tower") == "tower"}
    assert len(owners) == 2
    for copied in (copy.deepcopy(module), copy.deepcopy(module)._apply(lambda t: t.clone())):
        assert len(tables(copied)) == 2 and not {id(t) for t in tables(copied)} & {id(t) for t in tables(module)}


def test_comes_back_as_one_from_entropy_coded_weights(compressed: Any, tmp_path: Path) -> None:
    pytest.importorskip("constriction")
    steps = [{"prune.magnitude": {"where": "*.up", "sparsity": 0.5}}, {"quantize.rtn": TOWER}]
    done = compressed("clip", steps)
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=write_miniature("clip", tmp_path / "clip")), done.plan, tmp_path / "out", None)
    pack_weights_(tmp_path / "out")
    loaded = open_model(tmp_path / "out").module
    assert len(tables(loaded)) == 2 and len(stores(loaded)) > 20
    batch = make_miniature_batch("clip", 2)
    assert torch.equal(loaded(**batch).logits_per_image, done.model.module(**batch).logits_per_image)


def test_exceptions_have_a_table_of_their_own(compressed: Any) -> None:
    done = compressed("clip", [{"quantize.rtn": {**TOWER, "where": "text.*", "but": {"text.0.*": {"bits": 4}}}}])
    assert sorted(table.numel() for table in tables(done.model.module)) == [8, 16]
    assert done.model.layout == done.expected


def test_trained_as_one(compressed: Any) -> None:
    before = compressed("clip", [{"quantize.rtn": TOWER}])
    after = compressed("clip", [{"quantize.rtn": TOWER}, {"distill": {"steps": 3, "learning_rate": 0.01}}])
    for old, new in zip(tables(before.model.module), tables(after.model.module), strict=True):
        assert old.dtype == new.dtype == torch.float16 and not torch.equal(old, new)
    assert len(tables(after.model.module)) == 2
    assert not any(name.endswith("levels") for name, _ in after.model.module.named_parameters())
    for one, other in zip(stores(before.model.module), stores(after.model.module), strict=True):
        assert one.options == other.options and torch.equal(*(part.get_buffer("codes") for part in (one, other)))


@pytest.mark.parametrize(("scaled", "expected"), [(False, [[9.0, 2.0]]), (True, [[11.0, 4.0]])])
def test_gradients_of_all_layers_add_up(scaled: bool, expected: Any) -> None:
    """By hand: codes (0, 1) and (0, 0), levels (1, 3); loss Σ i·w_i from i = 1 for the first, 3 and 5 for the second. With
    scales 2 and 1 the first counts twice, and 3 and 6 for the second: 2 + 9 and 4."""
    options = {"shape": [1, 2], "dtype": "float32", "bits": 1, "group": 2, "exponent": 1, "scaled": scaled}
    codes = [pack_codes(torch.tensor([row]), 1) for row in ([0, 1], [0, 0])]
    scales = [{"scale": torch.tensor([[s]]).half()} if scaled else {} for s in (1.0, 0.5)]
    levels = torch.tensor([[1.0, 3.0]]).half() if scaled else torch.tensor([[0.5, 1.5]]).half()
    owner = make_weight_store("codebook", {**options, "tables": "tower"}, {"codes": codes[0], "levels": levels, **scales[0]})
    other = make_weight_store("codebook", {**options, "tables": "borrowed"}, {"codes": codes[1], **scales[1]})
    assert isinstance(owner, CodedWeight) and isinstance(other, CodedWeight)
    other.share_table_(owner)
    assert not other.has_own_levels
    both = nn.ModuleList([other, owner])
    owner.unfreeze_levels_()
    (trained,) = both.parameters()
    loss = (owner() * torch.tensor([1.0, 2.0])).sum() + (other() * torch.tensor([3.0, 5.0 if not scaled else 6.0])).sum()
    loss.backward()
    assert trained.grad is not None and trained.grad.tolist() == expected
    decoded = [owner().tolist(), other().tolist()]
    owner.freeze_levels_()
    assert [owner().tolist(), other().tolist()] == decoded and owner.options["exponent"] == 1


def test_blocks_are_not_removed_under_a_table(compressed: Any) -> None:
    with pytest.raises(RecipeError, match="blocks 0 and 1 differ in query"):
        compressed("clip", [{"quantize.rtn": {**TOWER, "where": "text.[01].*"}}, {"prune.layers": {"where": "text", "sparsity": 0.5}}])


def test_blocks_may_go_where_the_embedding_stores_the_table(compressed: Any, tmp_path: Path) -> None:
    done = compressed("clip", [{"quantize.rtn": {**TOWER, "where": "text.*"}}, {"prune.layers": {"where": "text", "sparsity": 0.5}}])
    source = write_miniature("clip", tmp_path / "clip")
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=source), done.plan, tmp_path / "out", None)
    again = open_model(tmp_path / "out")
    batch = make_miniature_batch("clip", 2)
    assert len(tables(again.module)) == 1
    assert torch.equal(again.module(**batch).logits_per_text, done.model.module(**batch).logits_per_text)
    dequantize_module_(again.module)
    assert not stores(again.module)


@pytest.mark.parametrize("how", [{"table": "tower"}, {"group": "tower", "grid": "nf"}, {"table": "tower", "grid": "asymmetric"}])
def test_only_learned_numbers_are_shared(compressed: Any, how: Any) -> None:
    with pytest.raises(RecipeError, match=r"a tower can only share learned numbers \(grid: kmeans\), not the grid"):
        compressed("clip", [{"quantize.rtn": how}])


OTHERS = [m.name for m in METHODS if issubclass(m.config, RoundingOptions) and m.name not in ("quantize.rtn", "quantize.gptq")]


@pytest.mark.parametrize("name", OTHERS)
def test_who_cannot_says_so(name: str) -> None:
    for option, reason in (("table", "has no option 'table'"), ("group", "group is 'tower', but must be")):
        with pytest.raises(RecipeError, match=reason):
            build_config(get_method(name).config, {option: "tower"}, name)


def test_a_table_is_needed(solve: Any, layer: Any) -> None:
    with pytest.raises(TrimodalError, match="was given no table of its tower"):
        solve(get_method("quantize.rtn"), layer.weight, layer.moment, **TOWER)

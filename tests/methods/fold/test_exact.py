"""fold.exact: what is refused, which bytes are left, that nothing changes, and that every later step still works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel

import trimodal
from trimodal.core import Fold, Place, Plan, Site
from trimodal.errors import ModelError, RecipeError
from trimodal.formats import open_model, write_artifact
from trimodal.formats.reload_check import collect_outputs
from trimodal.graph.fusion_discovery import LARGEST_ERROR
from trimodal.layers import AffineFreeNorm
from trimodal.methods.fold.exact import METHOD, ExactConfig
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.networks import tiny
from trimodal.networks.tiny import make_miniature_batch, write_miniature

FOLD = {"fold.exact": {}}
FOLDING = (
    "clip", "siglip", "vit", "dinov2", "whisper", "llama", "qwen3", "llava", "clap", "ast", "resnet", "resnet-basic", "fusion",
    "generic",
)  # fmt: skip


def site(path: str, kind: Any, *shape: int, **rest: Any) -> Site:
    found = Site(path, "image", 0, kind, kind, shape, **rest)
    return replace(found, stored_bytes=found.dense_bytes)


NORM = site("norm", "norm", 4, bias=True, running=True)
CONV = site("conv", "conv", 4, 3, 3, 3)
ONE, TWO = site("one", "linear", 2, 8, bias=True), site("two", "linear", 8, 2)


def place(what: Any, *sites: Site, **rest: Any) -> Place:
    return Place("here", sites, fold=Fold(what, sites[0].path, tuple(s.path for s in sites[1:]), **rest))


def after(found: Place) -> int:
    return sum(s.stored_bytes for s in METHOD.forecast(found, ExactConfig()))


def test_bytes_by_hand() -> None:
    assert NORM.stored_bytes == 4 * 4 * 4 + 8 and CONV.stored_bytes == 4 * 27 * 4
    assert after(place("norm", NORM, CONV)) == 4 * 27 * 4 + 4 * 4
    assert after(place("linear", TWO, site("back", "linear", 3, 8))) == 3 * 2 * 4
    plain = replace(NORM, running=False)
    assert after(place("affine", plain, site("q", "linear", 2, 4), site("k", "linear", 2, 4, bias=True))) == 2 * (
        32 + 8
    )
    assert after(place("twin", site("a", "linear", 4, 4), site("b", "linear", 4, 4))) == 64
    (kept,) = METHOD.forecast(
        place("twin", site("a", "linear", 4, 4, tied=("c",)), site("b", "linear", 4, 4)), ExactConfig()
    )
    assert kept.path == "b" and kept.tied == ("a", "c")


@pytest.mark.parametrize(("found", "options", "reason"), [
    (place("norm", NORM, CONV), {"norms": False}, "the option norms is off"),
    (place("norm", NORM, CONV, reason="others read it"), {}, "others read it"),
    (place("norm", NORM, replace(CONV, stored="quantized")), {}, "conv is already quantized"),
    (place("norm", NORM, replace(CONV, tied=("other",))), {}, "the weight of conv is tied to other"),
    (place("linear", ONE, TWO), {}, "what takes it over would need more bytes than it frees"),
    (Place("here", (NORM,)), {}, "nobody has watched"),
])  # fmt: skip
def test_refused(found: Place, options: dict[str, bool], reason: str) -> None:
    assert reason in (METHOD.refuse(found, ExactConfig(**options)) or "")
    assert METHOD.refuse(place("norm", NORM, CONV), ExactConfig()) is None


def relative(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> float:
    """The largest ‖Δy‖/‖y‖ over all outputs."""
    pairs = [(a.double(), now[key].double()) for key, a in before.items() if a.is_floating_point()]
    return max(float((a - b).norm() / a.norm()) for a, b in pairs)


@pytest.mark.parametrize("data", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FOLDING)
def test_error_is_rounding(compressed: Callable[..., Any], name: str, data: bool) -> None:
    done = compressed(name, [FOLD], data=data)
    batch = make_miniature_batch(name, 3, seed=9)
    assert 0 < relative(collect_outputs(done.original.module, batch), collect_outputs(done.model.module, batch)) < LARGEST_ERROR
    assert all(record.error["all"] <= LARGEST_ERROR**2 for record in done.records)
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    assert Plan.from_json(done.plan.to_json()) == done.plan


def test_no_batch_norm_is_left_of_a_resnet(compressed: Callable[..., Any]) -> None:
    done = compressed("resnet", [FOLD])
    norms = [part for part in done.original.module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == len(done.plan.edits[0].places) == 15
    assert not any(isinstance(part, nn.BatchNorm2d) for part in done.model.module.modules())
    assert not any(site.kind == "norm" for site in done.model.layout.sites)


def test_no_scale_is_left_of_a_dinov2(compressed: Callable[..., Any]) -> None:
    done = compressed("dinov2", [FOLD])
    folded = [place.fold.path for place in done.plan.edits[0].places if place.fold and place.fold.what == "scale"]
    scales = [path for path, _ in done.original.module.named_modules() if path.endswith(("layer_scale1", "layer_scale2"))]
    assert folded == scales and len(scales) == 4
    assert not any(key.endswith("lambda1") for key in done.model.module.state_dict())


def test_norms_keep_no_weights(compressed: Callable[..., Any]) -> None:
    done = compressed("llama", [FOLD])
    bare = [path for path, part in done.model.module.named_modules() if isinstance(part, AffineFreeNorm)]
    assert len(bare) == 4 and not any(key.startswith(tuple(bare)) for key in done.model.module.state_dict())
    assert done.plan.edits[0].left_alone[0].reason == "not only linear layers read it: output"


@pytest.mark.parametrize(("name", "later"), [
    ("resnet", [{"prune.channels": {"sparsity": 0.5}}, {"quantize.rtn": {"bits": 8}}]),
    ("resnet", [{"factorize.tucker": {"where": "*.0.2.conv", "rank_in": 2, "rank_out": 2}}, {"distill": {"steps": 1}}]),
    ("clip", [{"prune.heads": {"sparsity": 0.5}}, {"quantize.gptq": {"bits": 4, "group": 16}}]),
    ("clap", [{"quantize.rtn": {"bits": 4}}]),
])  # fmt: skip
def test_later_steps_work_and_reload(
    compressed: Callable[..., Any], tmp_path: Path, name: str, later: list[dict[str, Any]]
) -> None:
    done, batch = compressed(name, [FOLD, *later]), make_miniature_batch(name, 3, seed=9)
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    assert done.model.layout == done.expected
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=write_miniature(name, tmp_path / "in")), done.plan, tmp_path / "out", None)
    again = open_model(tmp_path / "out")
    for key, value in collect_outputs(done.model.module, batch).items():
        assert torch.equal(value, collect_outputs(again.module, batch)[key]), key


def test_as_good_as_unfolded_when_pruned(compressed: Callable[..., Any]) -> None:
    """Cutting channels commutes with folding: a batch norm works channel by channel."""
    prune = {"prune.channels": {"where": "*.1.channels", "sparsity": 0.0}}
    batch = make_miniature_batch("resnet", 3, seed=9)
    one, other = (collect_outputs(compressed("resnet", steps).model.module, batch) for steps in ([prune], [FOLD, prune]))
    assert relative(one, other) < LARGEST_ERROR


def test_after_quantizing_nothing_is_left_to_fold(compressed: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match="is already quantized"):
        compressed("resnet", [{"quantize.rtn": {"bits": 8}}, FOLD])
    with pytest.raises(RecipeError, match="nothing was seen that could be folded"):
        compressed("resnet", [FOLD, FOLD])
    with pytest.raises(RecipeError, match="the option norms is off"):
        compressed("resnet", [{"fold.exact": {"norms": False}}])


def test_a_part_of_the_model_by_pattern(compressed: Callable[..., Any]) -> None:
    done = compressed("clip", [{"fold.exact": {"where": "text.*"}}])
    assert {place.name.partition(".")[0] for place in done.plan.edits[0].places} == {"text"}
    assert {record.tower for record in done.records} == {"text"}


def test_tensors_stored_twice_are_one_in_file_and_memory(compressed: Callable[..., Any], tmp_path: Path) -> None:
    done = compressed("clap", [{"fold.exact": {"affine": False}}])
    assert [place.bytes_before - place.bytes_after for place in done.plan.edits[0].places] == [2048] * 3
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=write_miniature("clap", tmp_path / "in")), done.plan, tmp_path / "out", None)
    for module in (done.model.module, open_model(tmp_path / "out").module):
        tables = [t for name, t in module.named_buffers(remove_duplicate=False) if "position_index" in name]
        assert len(tables) == 4 and len({t.data_ptr() for t in tables}) == 1
        original = done.original.module.state_dict()
        assert all(
            torch.equal(t, original[name]) for name, t in module.state_dict().items() if "position_index" in name
        )


def test_the_base_model_loads_from_it_too(compressed: Callable[..., Any], tmp_path: Path) -> None:
    done = compressed("resnet", [FOLD])
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=write_miniature("resnet", tmp_path / "in")), done.plan, tmp_path / "out", None)
    base, batch = AutoModel.from_pretrained(tmp_path / "out"), make_miniature_batch("resnet", 2)
    with torch.no_grad():
        expected = done.original.module.base_model(**batch).pooler_output
        assert float((base(**batch).pooler_output - expected).norm() / expected.norm()) < LARGEST_ERROR


class Scale(nn.Module):
    """A scale per channel, as in DINOv2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.randn(width))

    def forward(self, hidden_state: Tensor) -> Tensor:
        """(…, width) -> (…, width)."""
        return hidden_state * self.lambda1


class Several(nn.Module):
    """Two linear layers in a row, a scale, a batch norm after a linear layer, and a tensor stored twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.norm, self.down, self.scale, self.head = nn.BatchNorm1d(8), nn.Linear(8, 6), Scale(6), nn.Linear(6, 2)
        self.register_buffer("one", torch.arange(6.0))
        self.register_buffer("two", torch.arange(6.0))
        nn.init.normal_(self.norm.running_mean)  # type: ignore[arg-type]

    def example(self) -> dict[str, Tensor]:
        """One sample."""
        return {"x": torch.zeros(1, 8)}

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) -> (B, 2)."""
        hidden = self.norm(self.second(self.first(x))).relu()
        found: Tensor = self.head((self.scale(self.down(hidden)) + self.one + self.two).relu())
        return found


def test_the_whole_job_on_a_module_of_no_family(tmp_path: Path) -> None:
    done = trimodal.compress(Several, {"steps": [FOLD]}, None, tmp_path / "out")
    places = done.plan.edits[0].places
    assert [(p.fold.what, p.fold.path) for p in places if p.fold] == [
        ("linear", "first"), ("norm", "norm"), ("scale", "scale"), ("twin", "two"),
    ]  # fmt: skip
    assert done.verdict.passed
    again, batch = trimodal.load(tmp_path / "out", factory=Several), {"x": torch.randn(5, 8)}
    assert relative(collect_outputs(Several().eval(), batch), collect_outputs(again, batch)) < LARGEST_ERROR
    assert sorted(again.state_dict()) == ["down.bias", "down.weight", "head.bias", "head.weight", "one", "second.bias",
                                          "second.weight", "two"]  # fmt: skip
    assert again.one is again.two


@pytest.mark.parametrize(
    "later", [[], [{"quantize.rtn": {"where": "*embedding*", "bits": 8}}]], ids=["plain", "quantized"]
)
def test_a_head_that_equals_the_embedding_is_stored_once(
    compressed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: list[dict[str, Any]]
) -> None:
    def alike(module: Any) -> None:
        enlarge(module)
        module.lm_head.weight.data.copy_(module.model.embed_tokens.weight.data)

    enlarge = tiny._enlarge_weights_
    monkeypatch.setattr(tiny, "_enlarge_weights_", alike)
    done = compressed("qwen3", [{"fold.exact": {"affine": False}}, *later], data=False)
    assert done.model.module.lm_head.weight is done.model.module.model.embed_tokens.weight or later
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    assert done.model.layout.sites[0].tied == ("lm_head",)
    done.original.module.save_pretrained(tmp_path / "in")
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=tmp_path / "in"), done.plan, tmp_path / "out", None)
    again, batch = open_model(tmp_path / "out").module, make_miniature_batch("qwen3", 2)
    for key, value in collect_outputs(done.model.module, batch).items():
        assert torch.equal(value, collect_outputs(again, batch)[key]), key
    assert tensor_bytes(unique_tensors(again).values()) == done.plan.expected_tensor_bytes


class Alike(nn.Module):
    """Two linear layers and two scales that begin with the same values, the layers with different neighbours."""

    modalities = ("text",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.scale, self.other = nn.LayerNorm(8, bias=False), Scale(8), Scale(8)
        self.one, self.two, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 2)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        self.two.weight.data.copy_(self.one.weight.data)
        self.other.load_state_dict(self.scale.state_dict())

    def example(self) -> dict[str, Tensor]:
        """One sample."""
        return {"x": torch.zeros(1, 8)}

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) -> (B, 2)."""
        hidden = self.scale(self.one(self.norm(x))).relu() + self.other(self.two(x)).relu()
        found: Tensor = self.head(hidden)
        return found


def test_what_another_fold_changes_is_no_twin(tmp_path: Path) -> None:
    """A norm folded into one of two equal weights, or a scale that goes, leaves nothing to be stored once."""
    done = trimodal.compress(Alike, {"steps": [FOLD]}, None, tmp_path / "out")
    assert [p.fold.what for p in done.plan.edits[0].places if p.fold] == ["affine", "scale", "scale"]
    assert done.verdict.passed
    again, batch = trimodal.load(tmp_path / "out", factory=Alike), {"x": torch.randn(5, 8)}
    assert relative(collect_outputs(Alike().eval(), batch), collect_outputs(again, batch)) < LARGEST_ERROR


@pytest.mark.parametrize(("where", "reason"), [
    ("scale", "an earlier step folds it already"), ("two.weight", "folding norm changes it or one.weight"),
])  # fmt: skip
def test_what_an_earlier_step_folded(where: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        trimodal.plan(Alike, {"steps": [{"fold.exact": {"twins": False}}, {"fold.exact": {"where": where}}]}, None)


def test_tensors_that_were_trained_apart_are_no_twins(compressed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def alike(module: Any) -> None:
        enlarge(module)
        module.lm_head.weight.data.copy_(module.model.embed_tokens.weight.data)

    enlarge = tiny._enlarge_weights_
    monkeypatch.setattr(tiny, "_enlarge_weights_", alike)
    steps = [{"distill": {"steps": 1}}, {"fold.exact": {"affine": False}}]
    with pytest.raises(RecipeError, match="distill trains before that, and then it may differ from"):
        compressed("qwen3", [*steps[:1], {"fold.exact": {"where": "lm_head*"}}])
    done = compressed("qwen3", steps[::-1])
    assert [place.name for place in done.plan.edits[0].places] == ["lm_head.weight"]


DEAD = {"fold.exact": {"dead": True}}


class Leftover(nn.Module):
    """A layer, a norm and a module of no known kind that nothing calls."""

    modalities = ("text",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.used, self.old, self.norm, self.odd = nn.Linear(8, 8), nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Bilinear(3, 3, 2)

    def example(self) -> dict[str, Tensor]:
        """One sample."""
        return {"x": torch.zeros(1, 8)}

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) -> (B, 8)."""
        found: Tensor = self.used(x)
        return found


def test_dead_layers_are_listed_and_stay() -> None:
    with pytest.raises(RecipeError, match=r"model\.old\.linear: never .* dead: true removes it and its 144 bytes"):
        trimodal.plan(Leftover, {"steps": [FOLD]}, None)


def test_dead_layers_go_from_model_and_file(tmp_path: Path) -> None:
    done = trimodal.compress(Leftover, {"steps": [DEAD]}, None, tmp_path / "out")
    saved = [place.bytes_before for place in done.plan.edits[0].places]
    assert saved == [144, 4 * 4 * 4 + 8, 4 * (2 * 9 + 2)] and not any(p.bytes_after for p in done.plan.edits[0].places)
    assert done.plan.expected_tensor_bytes == (64 + 8) * 4 and done.verdict.passed
    assert {record.notes for record in done.records} == {("removed, as it never runs",)}
    again, batch = trimodal.load(tmp_path / "out", factory=Leftover), {"x": torch.randn(5, 8)}
    assert sorted(again.state_dict()) == ["used.bias", "used.weight"]
    assert torch.equal(again(**batch), Leftover().eval()(**batch))
    with pytest.raises(ModelError, match=r"old .* was removed"):
        again.old(batch["x"])  # type: ignore[operator]
    with pytest.raises(RecipeError, match="odd: an earlier step folds it already"):
        trimodal.plan(Leftover, {"steps": [DEAD, DEAD]}, None)


@pytest.fixture
def reading_bert(monkeypatch: pytest.MonkeyPatch) -> None:
    """BERT with an attention to another model's states that it is never given."""

    def made() -> nn.Module:
        return BertModel(BertConfig(**tiny.TEXT_SIZES, is_decoder=True, add_cross_attention=True))

    monkeypatch.setitem(tiny.MINIATURES, "bert", made)


@pytest.mark.parametrize("later", [
    [], [{"prune.heads": {"sparsity": 0.5}}, {"prune.layers": {"sparsity": 0.5}}, {"quantize.gptq": {"bits": 4, "group": 16}}],
], ids=["alone", "and-more"])  # fmt: skip
def test_a_cross_attention_that_is_never_used(
    compressed: Callable[..., Any], reading_bert: None, tmp_path: Path, later: list[dict[str, Any]]
) -> None:
    done, batch = compressed("bert", [DEAD, *later]), make_miniature_batch("bert", 3, seed=9)
    assert {place.name.split(".")[2] for place in done.plan.edits[0].places} == {"cross"}
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    assert done.model.layout == done.expected
    if not later:
        before, now = (collect_outputs(m.module, batch) for m in (done.original, done.model))
        assert all(torch.equal(value, now[key]) for key, value in before.items())
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=write_miniature("bert", tmp_path / "in")), done.plan, tmp_path / "out", None)
    again = open_model(tmp_path / "out")
    assert not any("crossattention" in name for name in again.module.state_dict())
    for key, value in collect_outputs(done.model.module, batch).items():
        assert torch.equal(value, collect_outputs(again.module, batch)[key]), key
    stock = AutoModel.from_pretrained(tmp_path / "out")
    states: Any = torch.zeros(3, 2, stock.config.hidden_size)
    with pytest.raises(ModelError, match=r"crossattention.* was removed, since it never ran"):
        stock(**batch, encoder_hidden_states=states)


def test_blocks_that_may_go_are_folded_before(compressed: Callable[..., Any]) -> None:
    """A fold is tried in one block, and after blocks are removed another may stand there."""
    drop = {"prune.layers": {"sparsity": 0.5}}
    with pytest.raises(RecipeError, match="an earlier step removes blocks of text, and only then is it known which"):
        compressed("llama", [drop, FOLD])
    with pytest.raises(RecipeError, match="blocks 0 and 1 are made of different layers"):
        compressed("llama", [{"fold.exact": {"where": "text.1.*"}}, drop])
    done = compressed("llama", [FOLD, drop])
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    assert done.model.layout == done.expected
    done = compressed("clip", [{"prune.layers": {"where": "text", "sparsity": 0.5}}, FOLD])
    assert {place.name.split(".")[0] for place in done.plan.edits[1].places} == {"image"}


class Double(nn.Module):
    """Two layers of equal values, of which only one runs."""

    modalities = ("text",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.second.weight.data.copy_(self.first.weight.data)

    def example(self) -> dict[str, Tensor]:
        """One sample."""
        return {"x": torch.zeros(1, 8)}

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) -> (B, 8)."""
        found: Tensor = self.first(x)
        return found


@pytest.mark.parametrize(("steps", "kinds"), [
    ([DEAD], ["idle"]), ([FOLD], ["twin"]),
    ([{"fold.exact": {"dead": True, "where": "second*"}}], ["twin"]),
    ([{"fold.exact": {"dead": True, "where": "path:second"}}], ["idle"]),
], ids=["dead", "twins", "by-name", "by-path"])  # fmt: skip
def test_a_dead_layer_that_equals_another(tmp_path: Path, steps: list[Any], kinds: list[str]) -> None:
    done = trimodal.compress(Double, {"steps": steps}, None, tmp_path / "out")
    assert [place.fold.what for place in done.plan.edits[0].places if place.fold] == kinds
    assert done.plan.expected_tensor_bytes == 256 and done.verdict.passed
    again, batch = trimodal.load(tmp_path / "out", factory=Double), {"x": torch.randn(3, 8)}
    assert torch.equal(again(**batch), Double()(**batch))


def test_the_hint_speaks_of_an_example_only_where_there_is_none(compressed: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match=r"nothing was seen that could be folded$"):
        compressed("lstm", [FOLD], data=False)
    with pytest.raises(RecipeError, match="the model was not run: without data a module needs a method example"):
        trimodal.plan(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()), {"steps": [FOLD]}, None)

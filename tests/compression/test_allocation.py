"""How much goes where: the example by hand, what ranking over layers gains, and that no tower pays for another's scale."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trimodal import pipeline
from trimodal.compression import allocation
from trimodal.compression.allocation import ScorePool, allocate_units, balance_pools
from trimodal.core import PlaceRecord
from trimodal.formats import open_model
from trimodal.formats.reload_check import collect_outputs
from trimodal.models.model import Model
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.networks import tiny
from trimodal.networks.tiny import make_miniature_batch, write_miniature, write_miniature_data
from trimodal.verification.checks import bytes_check


def pool(scores: Any, sparsity: float = 0.5, tower: str = "text", cost: float = 1.0, most: int | None = None) -> ScorePool:
    ascending = torch.as_tensor(scores, dtype=torch.float64).sort().values
    units = len(ascending)
    stay = max(1, units - round(units * sparsity))
    return ScorePool(tower, ascending, 1.0, cost, units, units, stay, units - 1 if most is None else most)


def test_worked_example() -> None:
    assert allocate_units([pool([1, 2, 3, 4]), pool([10, 20, 30, 40])]) == [3, 1]


def test_a_unit_competes_with_its_score_per_byte() -> None:
    """Ten bytes are to go: two units of four bytes at a score of 2 each are cheaper than any of one byte at 1."""
    assert allocate_units([pool([1, 1, 1, 1]), pool([2, 2, 2, 2], cost=4.0)]) == [0, 3]
    assert allocate_units([pool([1, 1, 1, 1]), pool([5, 5, 5, 5], cost=4.0)]) == [3, 2]


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.floats(0, 100), min_size=2, max_size=30), min_size=1, max_size=5),
    st.floats(0, 0.9),
)
def test_as_much_goes_as_planned_and_no_place_loses_all(places: list[list[float]], sparsity: float) -> None:
    pools = [pool(scores, sparsity) for scores in places]
    gone = allocate_units(pools)
    assert all(0 <= count < one.units for count, one in zip(gone, pools, strict=True))
    assert sum(gone) == pytest.approx(sum(one.left - one.stay for one in pools), abs=0.5)


@given(st.integers(1, 6), st.floats(0.05, 0.9))
def test_points_that_stand_for_many_lead_to_the_same_shares(seed: int, sparsity: float) -> None:
    random = torch.Generator().manual_seed(seed)
    many = [torch.rand(4000, generator=random) * size for size in (1.0, 3.0)]
    exact = allocate_units([pool(scores, sparsity) for scores in many])
    few = [replace(pool(scores, sparsity), scores=scores.double().sort().values[20::40], each=40.0) for scores in many]
    assert allocate_units(few) == pytest.approx(exact, abs=40)


def test_scores_are_balanced_over_towers() -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.rand(200, generator=random)
    quiet, loud = pool(scores, tower="text"), pool(100 * scores, tower="image")
    assert allocate_units([quiet, loud])[0] > 190
    assert allocate_units(list(balance_pools({"a": quiet, "b": loud}).values())) == [100, 100]


class Unequal(nn.Module):
    """Two residual MLPs of a text tower, of which the first hardly uses three quarters of its neurons, and an image tower
    like it, whose every output counts so many `times`."""

    modalities = ("image", "text")
    times = 1

    def __init__(self) -> None:
        super().__init__()
        self.text_embedding = nn.Embedding(tiny.VOCABULARY, 16)
        self.image_stem = nn.Linear(3, 16)
        for tower in ("text", "image"):
            for part in ("first", "second"):
                self.add_module(f"{tower}_{part}_up", nn.Linear(16, 32))
                self.add_module(f"{tower}_{part}_down", nn.Linear(32, 16))
        self.head = nn.Linear(16, 8, bias=False)

    def example(self) -> dict[str, Tensor]:
        return tiny.Mixture.example(self)  # type: ignore[arg-type]

    def mlp(self, name: str, x: Tensor) -> Tensor:
        up, down = (self.get_submodule(f"{name}_{part}") for part in ("up", "down"))
        result: Tensor = x + down(up(x).relu())
        return result

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        read = self.text_embedding(input_ids)
        seen = self.image_stem(pixel_values.flatten(2)[:, :, :4].transpose(1, 2))
        for part in ("first", "second"):
            read, seen = self.mlp(f"text_{part}", read), self.mlp(f"image_{part}", seen)
        scores: Tensor = self.head(torch.cat((read, seen.repeat(1, self.times, 1)), dim=1))
        return scores


def make_unequal_(module: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
            if "first_up" in name:
                parameter[8:] *= 0.02
            if "first_down.weight" in name:
                parameter[:, 8:] *= 0.02


@pytest.fixture
def unequal(compressed: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def run(method: str, times: int = 1, **options: Any) -> Any:
        monkeypatch.setattr(tiny, "_enlarge_weights_", make_unequal_)
        monkeypatch.setitem(tiny.MINIATURES, "generic", type("Unequal", (Unequal,), {"times": times}))  # type: ignore[arg-type]
        where = "*_up.neurons" if method == "prune.neurons" else ["*first*", "*second*"]
        return compressed("generic", [{method: {"where": where, **options}}], samples=32)

    return run


def lost(done: Any) -> float:
    batch = make_miniature_batch("generic", 64, seed=9)
    before, after = (collect_outputs(model.module, batch) for model in (done.original, done.model))
    ((old, new),) = ((before[key].double(), after[key].double()) for key in before)
    return float((old - new).square().mean() / old.var())


def total(done: Any) -> int:
    return tensor_bytes(unique_tensors(done.model.module).values())


OPTIONS = [
    ("prune.magnitude", {}), ("prune.wanda", {"refit": False}), ("prune.wanda", {}), ("prune.gradient", {}),
    ("prune.gradient", {"score": "fisher"}), ("prune.neurons", {}), ("prune.neurons", {"score": "magnitude"}),
]  # fmt: skip
OFTEN = [OPTIONS[0], OPTIONS[5]]


@pytest.mark.parametrize(
    ("method", "options"),
    [pytest.param(*case, marks=() if case in OFTEN else pytest.mark.slow) for case in OPTIONS], ids=str,
)  # fmt: skip
def test_ranking_over_layers_loses_less_at_the_same_size(
    unequal: Callable[..., Any], method: str, options: dict[str, Any]
) -> None:
    runs = {scope: unequal(method, **options, scope=scope, sparsity=0.35) for scope in ("layer", "tower", "global")}
    errors = {scope: lost(done) for scope, done in runs.items()}
    assert errors["tower"] < 0.75 * errors["layer"], errors
    assert errors["global"] < 0.9 * errors["layer"], errors  # what never fired is not free, so there is less to share out
    assert total(runs["tower"]) == pytest.approx(total(runs["layer"]), rel=0.01)


def gone_by_tower(done: Any) -> dict[str, float]:
    before, after = defaultdict(int), defaultdict(int)
    for record in done.records:
        site = done.plan.edits[record.edit].places
        (path,) = next(place.paths for place in site if place.name == record.place)
        before[record.tower] += done.original.module.get_submodule(path).weight.numel()
        after[record.tower] += int((done.model.module.get_submodule(path).weight != 0).sum())
    return {tower: 1 - after[tower] / before[tower] for tower in before}


def test_no_tower_pays_for_anothers_scale(unequal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hundred times as many image tokens, what the loss says of image weights is a hundred times as much."""
    options = {"times": 100, "scope": "global", "sparsity": 0.5, "score": "fisher", "where": "*second_up*"}
    fair = gone_by_tower(unequal("prune.gradient", **options))
    assert all(0.3 < share < 0.7 for share in fair.values()), fair
    monkeypatch.setattr(allocation, "balance_pools", lambda pools: pools)
    unfair = gone_by_tower(unequal("prune.gradient", **options))
    assert unfair["text"] > 1.2 * unfair["image"], unfair


def test_a_tower_by_itself_loses_what_was_asked_for(unequal: Callable[..., Any]) -> None:
    shares = gone_by_tower(unequal("prune.magnitude", scope="tower", sparsity=0.6, refit=False))
    assert shares == {tower: pytest.approx(0.6, abs=1e-3) for tower in ("text", "image")}


def test_a_sparsity_of_its_own_is_not_left_to_the_ranking(unequal: Callable[..., Any]) -> None:
    done = unequal("prune.magnitude", scope="global", but={"*text_first_up*": {"sparsity": 0.25}})
    weight = done.model.module.text_first_up.weight
    assert int((weight == 0).sum()) == weight.numel() // 4
    plan = {place.name: place.certainty for place in done.plan.edits[0].places}
    assert plan.pop("text.text_first_up.linear") == "exact" and set(plan.values()) == {"estimate"}


def test_what_the_loss_does_not_depend_on_loses_what_was_asked_for(
    compressed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Idle(Unequal):
        def __init__(self) -> None:
            super().__init__()
            self.text_idle = nn.Linear(16, 16)

    monkeypatch.setitem(tiny.MINIATURES, "generic", Idle)  # type: ignore[arg-type]
    done = compressed("generic", [{"prune.gradient": {"where": ["*idle*", "*up*"], "scope": "tower", "sparsity": 0.5}}])
    assert int((done.model.module.text_idle.weight == 0).sum()) == 128


GRADUAL = {"sparsity": 0.6, "scope": "tower", "gradual": {"times": 3, "recover": {"steps": 1}}}


@pytest.mark.parametrize("method", ["prune.magnitude", *(
    pytest.param(method, marks=pytest.mark.slow) for method in ("prune.wanda", "prune.neurons"))])  # fmt: skip
def test_gradual_steps_rank_what_is_left(compressed: Any, method: str) -> None:
    done = compressed("clip", [{method: GRADUAL}])
    planned = done.plan.expected_tensor_bytes
    assert total(done) == pytest.approx(planned, rel=0.01)
    assert done.plan.certainty == "estimate"
    if method == "prune.neurons":
        (up, other) = (done.model.layout.get_site(f"vision_model.encoder.layers.{b}.mlp.fc1").rows for b in (0, 1))
        assert up + other == pytest.approx(2 * 64 * 0.4, abs=2)


def test_what_an_earlier_ranking_leaves_no_room_for_is_left_alone(unequal: Callable[..., Any], compressed: Any) -> None:
    unequal("prune.magnitude")
    done = compressed("generic", [
        {"prune.magnitude": {"where": ["*first*", "*second*"], "scope": "tower", "sparsity": 0.5}},
        {"prune.magnitude": {"where": ["*first*", "*second*"], "sparsity": 0.55}},
    ])  # fmt: skip
    alone = [
        record for record in done.records if any(note.startswith("left alone: already sparse") for note in record.notes)
    ]
    assert alone and all(record.edit == 1 and record.bytes_after == record.bytes_before for record in alone)
    assert len(done.records) == 16
    found = done.plan.source.tensor_bytes - sum(r.bytes_before - r.bytes_after for r in done.records)
    assert total(done) == found


Whole = tuple[Path, pipeline.Result, Model]
STEPS: list[dict[str, Any]] = [
    {"prune.heads": {"where": "*", "sparsity": 0.5, "scope": "global"}},
    {"prune.neurons": {"where": "*", "sparsity": 0.5, "scope": "global"}},
    {"prune.magnitude": {"where": "*", "sparsity": 0.5, "scope": "global"}},
    {"quantize.rtn": {"where": "*", "bits": 8}},
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("scope")
    model = write_miniature("clip", folder / "model")
    data = write_miniature_data(folder / "data", 24, ("image", "text"))
    recipe = {"steps": STEPS, "calibration": {"samples": 8}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])  # the test does it in its own process
        caught: list[Model] = []
        write = pipeline.write_artifact

        def noted(model: Model, *rest: Any) -> Any:
            caught.append(model)
            return write(model, *rest)

        patch.setattr(pipeline, "write_artifact", noted)
        return model, pipeline.compress(model, recipe, data, folder / "out"), caught[0]


def test_main_job_with_a_global_scope(whole: Whole) -> None:
    """From the plan, which says that it estimates, to a folder that reloads to the same outputs."""
    _, result, model = whole
    assert result.plan.certainty == "estimate" and result.verdict.passed
    plan = json.loads((result.folder / "plan.json").read_text())
    assert {place["certainty"] for edit in plan["edits"] for place in edit["places"]} == {"estimate"}
    check = next(check for check in result.verdict.checks if check.name == "bytes as planned")
    again = open_model(result.folder)
    batch = make_miniature_batch("clip", 3, seed=9)
    expected = collect_outputs(model.module, batch)
    assert all(torch.equal(value, expected[key]) for key, value in collect_outputs(again.module, batch).items())
    found = tensor_bytes(unique_tensors(again.module).values())
    assert f"{found:,} bytes" in check.detail and f"planned {result.plan.expected_tensor_bytes:,}" in check.detail
    assert "an estimate" in check.detail
    units = {label: site.input_axis.units_of(label) for label in again.layout.list_labels() for site in again.layout.sites
             if site.input_axis and site.reads_label(label)}  # fmt: skip
    for unit, each in (("neurons", 32), ("heads", 2)):
        assert sum(n for label, n in units.items() if label.endswith(unit)) == pytest.approx(4 * each, abs=1)
    notes = {note for record in result.records if isinstance(record, PlaceRecord) for note in record.notes}
    assert any(note.endswith("of it goes (scope: global)") for note in notes)


def test_same_seed_same_bytes(compressed: Any) -> None:
    one, other = (compressed("clip", STEPS[:3]).model.module.state_dict() for _ in range(2))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_an_estimate_that_is_far_off_is_no_success(whole: Whole) -> None:
    model, result, _ = whole
    opened = open_model(result.folder)
    off = replace(result.plan, expected_tensor_bytes=result.plan.expected_tensor_bytes * 2)
    assert not bytes_check(opened, off, result.records).passed
    assert bytes_check(opened, result.plan, result.records).passed
    assert not bytes_check(opened, result.plan, result.records[:-1]).passed
    assert not bytes_check(open_model(model), result.plan, result.records).passed

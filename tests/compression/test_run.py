"""The loop: what it changes, what it leaves alone, and what it writes down."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimodal.compression.stages import split_stages
from trimodal.core import FitRecord, PlaceRecord
from trimodal.errors import TrimodalError
from trimodal.maths.error import quadratic_form, weight_error
from trimodal.methods.distill import recover
from trimodal.models.tensors import tensor_bytes, unique_tensors

STEPS: list[dict[str, Any]] = [
    {"prune.neurons": {"sparsity": 0.5}}, {"prune.heads": {"where": "image.*", "sparsity": 0.5}},
    {"distill": {"steps": 2}}, {"quantize.rtn": {"where": "*embedding", "bits": 8}},
    {"quantize.gptq": {"bits": 4, "group": 16}},
]  # fmt: skip


def state(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.module.state_dict())


@pytest.mark.parametrize("name", ["clip", pytest.param("fusion", marks=pytest.mark.slow)])
def test_same_plan_same_bytes(compressed: Any, name: str) -> None:
    first, second = (compressed(name, STEPS) for _ in range(2))
    assert first.plan == second.plan
    a, b = state(first.model), state(second.model)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_another_seed_trains_another_way(compressed: Any) -> None:
    """Pruned first: a student that equals its teacher has nothing to learn, in whatever order."""
    steps = [{"prune.magnitude": {"sparsity": 0.5}}, {"distill": {"steps": 4}}]
    first, second = (compressed("clip", steps, seed=seed) for seed in (0, 1))
    assert any(not torch.equal(a, b) for a, b in zip(state(first.model).values(), state(second.model).values()))


def test_one_record_per_place_in_running_order(compressed: Any) -> None:
    done = compressed("clip", STEPS)
    places = [r for r in done.records if isinstance(r, PlaceRecord)]
    planned = [(i, p.name) for i, edit in enumerate(done.plan.edits) for p in edit.places]
    assert sorted((r.edit, r.place) for r in places) == sorted(planned)
    fits = [r for r in done.records if isinstance(r, FitRecord)]
    assert [(r.edit, r.method, r.step) for r in fits] == [(2, "distill", 1), (2, "distill", 2)]
    assert [r.edit for r in done.records if not isinstance(r, FitRecord)][-1] in (3, 4)
    at = [done.records.index(r) for r in fits]
    assert all(r.edit < 2 for r in done.records[: at[0]]) and all(r.edit > 2 for r in done.records[at[1] + 1 :])


def test_records_say_what_was_lost(compressed: Any) -> None:
    done = compressed("clip", [{"quantize.rtn": {"bits": 3}}])
    for record in done.records:
        planned = next(p for p in done.plan.edits[0].places if p.name == record.place)
        old = done.original.module.get_submodule(planned.paths[0]).weight.detach().flatten(1)
        new = done.model.module.get_submodule(planned.paths[0]).weight.detach().flatten(1)
        assert record.weight_error == pytest.approx(weight_error(old, new))
        assert (record.bytes_before, record.bytes_after) == (planned.bytes_before, planned.bytes_after)
        assert all(0 < error < 1 for error in record.error.values())
        assert set(record.error) == {record.tower} and record.unmeasured == ""
        assert record.seconds >= 0


def test_error_on_record_is_the_one_on_data(compressed: Any) -> None:
    done = compressed("bert", [{"factorize.eigen": {"where": "text.0.up"}}])
    (record,) = done.records
    layer = "encoder.layer.0.intermediate.dense"
    seen: list[torch.Tensor] = []
    before, after = (m.module.get_submodule(layer) for m in (done.original, done.model))
    handle = before.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for batch in done.batches:
            done.original.module(**batch)
            seen[-1] = seen[-1][batch["attention_mask"] > 0]
        handle.remove()
        x = torch.cat(seen)
        lost = (before(x) - after(x)).square().sum() / len(x)
    energy = quadratic_form(before.weight.detach(), x.T @ x / len(x))
    assert record.tokens == {"text": len(x)}
    assert record.error["text"] == pytest.approx(float(lost) / energy, rel=1e-3)


@pytest.mark.parametrize("refit", [True, False])
def test_refit_is_done_only_when_asked_for(compressed: Any, refit: bool) -> None:
    for name in ("prune.wanda", "prune.magnitude"):
        done = compressed("bert", [{name: {"where": "text.0.up", "refit": refit}}])
        path = "encoder.layer.0.intermediate.dense"
        old, new = (m.module.get_submodule(path).weight.detach() for m in (done.original, done.model))
        assert torch.equal(new, old.masked_fill(new == 0, 0.0)) is not refit


def test_later_blocks_are_calibrated_on_what_earlier_ones_give_now(compressed: Any) -> None:
    alone = compressed("bert", [{"quantize.gptq": {"where": "text.1.*", "bits": 3}}])
    after = compressed("bert", [
        {"prune.magnitude": {"where": "text.0.*", "sparsity": 0.8}},
        {"quantize.gptq": {"where": "text.1.*", "bits": 3}},
    ])  # fmt: skip
    key = "encoder.layer.1.intermediate.dense.stored.codes"
    assert not torch.equal(state(alone.model)[key], state(after.model)[key])


def test_edits_on_one_site_follow_each_other(compressed: Any) -> None:
    done = compressed("clip", [
        {"prune.neurons": {"where": "image.0.*", "sparsity": 0.5}},
        {"factorize.eigen": {"where": "image.0.down", "rank": 6}},
        {"quantize.gptq": {"where": "image.0.*down", "bits": 4}},
    ])  # fmt: skip
    block = "vision_model.encoder.layers.0.mlp"
    assert [(r.edit, r.place) for r in done.records] == [
        (0, "image.0.neurons"), (1, "image.0.down"), (2, "image.0.first.down"), (2, "image.0.second.down"),
    ]  # fmt: skip
    names = {key.removeprefix(f"{block}.fc2.") for key in state(done.model) if key.startswith(f"{block}.fc2.")}
    stored = {f"{factor}.stored.{part}" for factor in ("first", "second") for part in ("codes", "scale")}
    assert names == stored | {"second.bias"}
    assert done.model.layout == done.expected


def test_balance_decides_how_modalities_are_mixed(compressed: Any) -> None:
    steps = [{"quantize.gptq": {"where": "text.0.up", "bits": 2}}]
    a, b = (compressed("llava", steps, calibration={"balance": balance}) for balance in ("modality", "tokens"))
    path = "model.language_model.layers.0.mlp.up_proj"
    assert not torch.equal(*(d.model.module.get_submodule(path).weight for d in (a, b)))
    assert set(a.records[0].error) == {"image", "text"}


@pytest.mark.parametrize("step", [
    {"quantize.gptq": {}}, {"quantize.awq": {}}, {"quantize.learned": {}}, {"quantize.entropy": {"bits": 4.0}}, {"quantize.rotated": {}},
    {"prune.wanda": {}}, {"prune.sparsegpt": {}}, {"prune.obs": {}}, {"prune.gradient": {}}, {"factorize.eigen": {}},
    {"factorize.svd": {"alpha": 0.5}}, {"quantize.smooth": {}},
], ids=lambda step: next(iter(step)))  # fmt: skip
def test_a_layer_that_no_sample_reaches_never_ends_a_run(compressed: Any, monkeypatch: pytest.MonkeyPatch, step: Any) -> None:
    """Its inputs count as all alike, so it is rounded or pruned by its weights, and the record says so."""
    from trimodal.networks import tiny

    mixture = tiny.Mixture

    class Idle(mixture):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.text_idle = torch.nn.Linear(16, 16)

    monkeypatch.setitem(tiny.MINIATURES, "generic", Idle)  # type: ignore[arg-type]
    ((name, options),) = step.items()
    done = compressed("generic", [{name: {"where": "path:text_idle", **options}}])
    (record,) = done.records
    if name == "quantize.smooth":  # nothing says what range its inputs have
        assert record.notes[0].startswith("left alone: quantize.smooth at text.text_idle.linear: no calibration sample ran through it")
        assert record.bytes_after == record.bytes_before
        return
    told = "256 weights got no gradient" if name == "prune.gradient" else "16 of 16 columns were reached by no calibration token"
    before, after = (model.module.get_submodule("text_idle") for model in (done.original, done.model))
    assert any(told in note or "ranked by size" in note for note in record.notes) and record.bytes_after < record.bytes_before
    if name == "quantize.gptq":
        plain = compressed("generic", [{"quantize.rtn": {"where": "path:text_idle", "bits": 4}}], data=False)
        assert after.weight.equal(plain.model.module.get_submodule("text_idle").weight)
    x = torch.eye(16)
    assert float((after(x) - before(x)).norm() / (before(x) - before.bias).norm()) < 0.75


def test_gradient_edit_needs_the_original(compressed: Any) -> None:
    from trimodal.compression import compress_

    done = compressed("generic", [{"distill": {"steps": 1}}])
    with pytest.raises(TrimodalError, match=r"step 1 \(distill\) was given no original model"):
        compress_(done.model, done.plan, [], [])


def test_progress_is_told(compressed: Any) -> None:
    from trimodal.compression import compress_
    from trimodal.planning import plan_edits, read_recipe

    done = compressed("generic", [{"quantize.rtn": {}}])
    edits, _ = plan_edits(done.original.layout, read_recipe({"steps": [{"quantize.rtn": {}}]}), False)
    told: list[tuple[str, int, int]] = []
    compress_(done.original, done.plan, [], [], progress=lambda *what: told.append(what))
    assert [number for _, number, _ in told] == list(range(len(edits[0].places)))
    assert all(what.startswith("quantize.rtn ") and total == len(told) for what, _, total in told)


def test_every_training_sees_the_data_in_an_order_of_its_own(compressed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else short recoveries of a gradual schedule would all learn from the same few samples."""
    seeds, shuffled = [], recover._shuffle_batches

    def seen(count: int, steps: int, seed: int) -> list[int]:
        seeds.append(seed)
        return shuffled(count, steps, seed)

    monkeypatch.setattr(recover, "_shuffle_batches", seen)
    line = {"sparsity": 0.5, "gradual": {"times": 3, "recover": {"steps": 1}}}
    compressed("generic", [{"prune.magnitude": line}], seed=7)
    assert seeds == [7, 8, 9]
    compressed("generic", [{"distill": {"steps": 1}}], seed=2**63 - 1)
    assert seeds[3:] == [2**63 - 1]


@pytest.mark.parametrize(("name", "steps"), [
    ("resnet-basic", [{"factorize.tucker": {}}, {"prune.channels": {}}]),
    ("resnet", [{"fold.exact": {}}, {"factorize.eigen": {}}, {"prune.channels": {}}, {"quantize.rtn": {"bits": 8}}]),
    ("llama", [{"prune.neurons": {}}, {"share.layers": {"rank": 2}}]),
], ids=lambda value: value if isinstance(value, str) else "-".join(next(iter(step)) for step in value))  # fmt: skip
def test_a_place_in_several_blocks_waits_for_earlier_edits_in_all_of_them(
    compressed: Any, name: str, steps: list[dict[str, Any]]
) -> None:
    done = compressed(name, steps)
    assert done.model.layout == done.expected
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes


def test_edits_inside_of_blocks_go_in_one_sweep(compressed: Any) -> None:
    edits = compressed("llama", [{"prune.heads": {}}, {"prune.neurons": {}}, {"quantize.rtn": {"bits": 8}}]).plan.edits
    layout = compressed("llama", [{"prune.heads": {}}]).original.layout
    assert [[number for number, _ in stage] for stage in split_stages(edits, layout)] == [[0, 1, 2]]


UNSEEN: list[dict[str, Any]] = [
    {"quantize.gptq": {"bits": 8}}, {"quantize.gptq": {"bits": 8, "grid": "asymmetric", "clip": "output", "target": 0.5}},
    {"quantize.gptq": {"bits": 6, "grid": "kmeans"}}, {"quantize.entropy": {"bits": 6.0}}, {"quantize.awq": {"bits": 6}},
    {"quantize.awq": {"bits": 6, "feedback": False}}, {"quantize.smooth": {"strength": 0.5, "feedback": True}},
    {"quantize.learned": {"bits": 6, "steps": 40}}, {"quantize.rotated": {"bits": 6}},
    {"quantize.rtn": {"bits": 6, "grid": "kmeans"}}, {"prune.wanda": {"sparsity": 0.2}},
    {"prune.wanda": {"sparsity": 0.2, "refit": False}}, {"prune.sparsegpt": {"sparsity": 0.2}}, {"prune.obs": {"sparsity": 0.2}},
    {"prune.sparsegpt": {"kept": 6, "of": 8, "bits": 6}}, {"prune.gradient": {"sparsity": 0.2}},
    {"prune.gradient": {"sparsity": 0.2, "score": "fisher"}}, {"factorize.eigen": {"rank": 18}},
    {"factorize.svd": {"rank": 18, "alpha": 1.0}},
]  # fmt: skip


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.net(x)
        return found


@pytest.mark.parametrize("size", [0.0, 1e-5])
@pytest.mark.parametrize("step", UNSEEN, ids=lambda step: "-".join(map(str, (next(iter(step)), *next(iter(step.values())).values()))))
def test_what_no_calibration_token_reached_is_not_harmed(compressed: Any, step: dict[str, Any], size: float) -> None:
    """Half of the inputs never fire while calibrating. Afterwards they do: the error is that of a layer that saw them."""
    ((name, options),) = step.items()

    def lost(scale: float) -> float:
        torch.manual_seed(0)
        batches = [{"x": torch.randn(64, 32)} for _ in range(8)]
        for batch in batches:
            batch["x"][:, :16] *= scale
        done = compressed(Net(), [{name: {"where": "model.0*", **options}}], given=batches)
        told = [note for record in done.records for note in record.notes if "reached by no" in note or "no gradient" in note]
        assert bool(told) == (scale < 1)
        x = torch.zeros(200, 32)
        x[:, :16] = torch.randn(200, 16)
        before, after = (model.module.net[0](x) for model in (done.original, done.model))
        return float((after - before).norm() / before.norm())

    assert lost(size) < 1.5 * lost(1.0) + 0.01

"""Low-rank recovery: the closed form is the best of its rank, the frozen model stays, and what was trained is what is stored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.compression.progress import count_steps
from trimodal.errors import RecipeError
from trimodal.maths.lowrank import fit_correction
from trimodal.methods.distill import lora
from trimodal.training.adapters import AdapterSettings, WeightUpdate, attach_adapters, balance_factors

STEPS = {"steps": 8, "learning_rate": 3e-3, "batch": 8}
CODED = {"quantize.rtn": {"bits": 2, "group": 8, "clip": "max"}}


def _output(weight: Tensor, moment: Tensor) -> float:
    return float((weight @ moment * weight).sum())


def test_worked_example() -> None:
    residual = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    left, right = fit_correction(residual, None, 1)
    torch.testing.assert_close((left @ right).float(), torch.tensor([[3.0, 0.0], [0.0, 0.0]]))
    moment = torch.diag(torch.tensor([1.0, 9.0]))
    left, right = fit_correction(residual, moment, 1)
    torch.testing.assert_close((left @ right).float(), torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    assert _output(residual - (left @ right).float(), moment) == pytest.approx(9)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (30, 4)])
def test_no_pair_of_its_rank_leaves_less(shape: tuple[int, int]) -> None:
    """Held against the singular values that are left of R C^½, found by another way, and against a descent from many starts."""
    chance = torch.Generator().manual_seed(1)
    residual = torch.randn(*shape, generator=chance, dtype=torch.float64)
    mixed = torch.randn(shape[1], shape[1], generator=chance, dtype=torch.float64)
    x = torch.randn(40, shape[1], generator=chance, dtype=torch.float64) @ mixed
    moment = x.T @ x / 40
    for rank in (1, 2, 3):
        left, right = fit_correction(residual, moment, rank)
        assert left.shape == (shape[0], rank) and right.shape == (rank, shape[1])
        reached = _output(residual - left @ right, moment)
        spectrum = torch.linalg.svdvals(residual @ torch.linalg.cholesky(moment))
        assert reached == pytest.approx(float(spectrum[rank:].square().sum()), rel=1e-6)
        for _ in range(20):
            other = torch.randn(shape[0], rank, generator=chance, dtype=torch.float64)
            fitted = torch.linalg.solve(other.T @ other, other.T @ residual)  # the best right for this left under any C
            assert _output(residual - other @ fitted, moment) >= reached


def test_balanced_factors_have_one_product_and_one_length() -> None:
    left, right = torch.randn(5, 3, dtype=torch.float64), 100 * torch.randn(3, 7, dtype=torch.float64)
    a, b = balance_factors(left, right)
    torch.testing.assert_close(a @ b, (left @ right).float())
    torch.testing.assert_close(a.norm(dim=0), b.norm(dim=1))
    zeros = balance_factors(left, 0 * right)
    assert bool(torch.cat([part.flatten() for part in zeros]).isfinite().all())


@pytest.mark.parametrize("dora", [False, True])
def test_what_an_adapter_says_is_what_its_layer_does(dora: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 5)).eval()
    x, before = torch.randn(4, 3, 3, 3), {name: value.clone() for name, value in module.state_dict().items()}
    expected = module(x)
    settings = {"0": AdapterSettings(2, 4.0, dora), "2": AdapterSettings(3, 3.0, dora)}
    with attach_adapters(module, settings, seed=0) as adapters:
        torch.testing.assert_close(module(x), expected)
        assert adapters.count_parameters() == 2 * (8 + 27) + 3 * (8 + 5) + (13 if dora else 0)
        assert {p.requires_grad for name, p in module.named_parameters() if "lora" not in name} == {False}
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if "lora" in name:
                    parameter.add_(0.3 * torch.rand_like(parameter))
        found, updates = module(x), {path: adapters.read(path) for path in settings}
    assert {name: value.shape for name, value in module.state_dict().items()} == {name: value.shape for name, value in before.items()}
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.requires_grad for p in module.parameters())
    for path, update in updates.items():
        layer: Any = module.get_submodule(path)
        assert (update.factor is not None) == dora
        layer.weight.data = update.apply(layer.weight)
    torch.testing.assert_close(module(x), found, rtol=1e-4, atol=1e-5)


def test_a_layer_that_is_used_twice_has_one_adapter() -> None:
    layer = nn.Linear(4, 4)
    module = nn.ModuleList([nn.Sequential(layer), nn.Sequential(layer)])
    with attach_adapters(module, {"0.0": AdapterSettings(1, 1.0)}, seed=0):
        assert module[0][0] is module[1][0] and module[0][0] is not layer  # type: ignore[index]
    assert module[0][0] is layer and module[1][0] is layer  # type: ignore[index]


def test_nothing_is_added_to_what_is_pruned() -> None:
    update = WeightUpdate(torch.ones(2, 1), torch.ones(1, 2), None, torch.tensor([[1, 0], [0, 1]]))
    assert update.apply(torch.zeros(2, 2)).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def _step(**options: Any) -> dict[str, Any]:
    return {"distill.lora": {"where": "*", "optional": True, "rank": 2, **STEPS, **options}}


def _losses(done: Any) -> list[float]:
    return [record.losses["loss"] for record in done.records if record.kind == "fit"]


@pytest.mark.parametrize("options", [{}, {"init": "error"}, {"dora": True}, {"init": "error", "dora": True}], ids=str)
def test_codes_stay_and_a_pair_stands_beside_them(compressed: Any, options: dict[str, Any]) -> None:
    coded, done = compressed("clip", [CODED]), compressed("clip", [CODED, _step(**options)])
    adapted = {place.name for place in done.plan.edits[1].places}
    assert adapted
    for site in done.model.layout.sites:
        store: Any = getattr(done.model.module.get_submodule(site.path), "stored", None)
        if site.name not in adapted or store is None:
            continue
        before: Any = coded.model.module.get_submodule(site.path).stored
        assert torch.equal(store.codes, before.codes)
        assert torch.equal(store.scale, before.scale) != bool(options.get("dora"))
        assert store.left.shape == (site.rows, 2) and store.right.shape == (2, site.columns)
        assert store.left.dtype == torch.float16 and store.options["rank"] == 2
    losses = _losses(done)
    assert len(losses) == STEPS["steps"] and losses[-1] < losses[0]
    assert len(done.records) == count_steps(done.plan)
    notes = {note for record in done.records[-len(adapted) :] for note in record.notes}
    assert "a pair of rank 2 stands beside the codes" in notes


def test_beginning_with_the_error_begins_with_less_of_it(compressed: Any) -> None:
    first = {init: _losses(compressed("clip", [CODED, _step(init=init)]))[0] for init in ("zero", "error")}
    assert first["error"] < 0.8 * first["zero"]


def test_a_pruned_weight_takes_the_pair_up_and_its_mask_holds(compressed: Any) -> None:
    prune = {"prune.magnitude": {"where": "*", "optional": True, "sparsity": 0.6}}
    pruned, done = compressed("clip", [prune]), compressed("clip", [prune, _step(dora=True)])
    adapted = [place for place in done.plan.edits[1].places if place.bytes_before == place.bytes_after]
    assert len(adapted) == len(done.plan.edits[1].places) > 4
    moved = 0
    for place in adapted:
        old, new = (case.model.module.get_submodule(place.paths[0]).weight.detach() for case in (pruned, done))
        assert torch.equal(old != 0, new != 0)
        moved += not torch.equal(old, new)
    assert moved > 4
    assert _losses(done)[-1] < _losses(done)[0]


def test_what_is_stored_is_what_was_trained(compressed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs before the adapters are taken off, and after: on coded, pruned and plain layers, with quantized inputs."""
    steps: list[Any] = [
        {"prune.magnitude": {"where": "text.0.*", "sparsity": 0.5}}, {"quantize.smooth": {"where": "text.1.*", "strength": 0.5}},
        {"quantize.rtn": {"where": "image.*.up", "bits": 3}}, _step(),
    ]  # fmt: skip
    seen: list[Any] = []
    whole = lora.train_student

    def noted(student: Any, *rest: Any) -> Any:
        found = whole(student, *rest)
        seen.append(student)
        with torch.no_grad():
            seen.append(student.module(**noted_batch))
        return found

    monkeypatch.setattr(lora, "train_student", noted)
    noted_batch = compressed("clip", [CODED]).batches[0]
    done = compressed("clip", steps)
    with torch.no_grad():
        after = done.model.module(**noted_batch)
    torch.testing.assert_close(after.logits_per_image, seen[1].logits_per_image, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("before", "options", "reason"),
    [
        ([], {"rank": 64}, "has no room for rank 64"),
        ([{"quantize.rtn": {"where": "text.*", "bits": 4}}], {"rank": 16}, "larger than half of its"),
        ([{"quantize.rtn": {"where": "text.*", "group": "tensor"}}], {"dora": True, "rank": 1}, "no scale for each row"),
        ([{"quantize.rtn": {"where": "text.*", "bits": 3, "grid": "kmeans", "table": "tower"}}], {}, "shared with other layers"),
        ([{"prune.magnitude": {"where": "text.*.up"}}, {"quantize.rtn": {"where": "text.*"}}], {}, "fill in what is pruned"),
    ],
)
def test_what_cannot_be_stored_is_left_alone_with_the_reason(
    compressed: Any, before: list[Any], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RecipeError, match=reason):
        compressed("clip", [*before, _step(where="text.0.up", optional=False, **options)])

"""share.layers: the shared weight is the best one, equal blocks lose nothing, and it is stored once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from trimodal.core import Place, Site, Tower
from trimodal.errors import RecipeError
from trimodal.formats import open_model, write_artifact
from trimodal.formats.reload_check import collect_outputs
from trimodal.layers import has_shared_weight, is_weight_parametrized
from trimodal.maths.error import quadratic_form
from trimodal.methods.share.layers import METHOD, SharedConfig, find_sharing_groups, fit_shared_weight
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.networks import tiny
from trimodal.networks.tiny import make_miniature_batch, write_miniature

SHARED = {"share.layers": {}}


def lost(base: Tensor, weights: list[Tensor], moments: list[Tensor]) -> float:
    return sum(quadratic_form(w.double() - base, c.double()) for w, c in zip(weights, moments, strict=True))


def test_the_example_by_hand() -> None:
    weights = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])]
    moments = [torch.diag(torch.tensor([3.0, 1.0])), torch.eye(2)]
    found = fit_shared_weight(weights, moments)
    assert torch.allclose(found, torch.tensor([[1.5, 2.0]], dtype=torch.float64), atol=1e-6)
    assert lost(found, weights, moments) == pytest.approx(11.0, abs=1e-6)
    assert lost(torch.tensor([[1.0, 2.0]], dtype=torch.float64), weights, moments) == pytest.approx(12.0, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 5), st.integers(1, 5))
def test_no_other_weight_is_better(seed: int, count: int, rows: int, columns: int) -> None:
    random = torch.Generator().manual_seed(seed)
    weights = [torch.randn(rows, columns, generator=random) for _ in range(count)]
    inputs = [torch.randn(columns + 3, columns, generator=random) * (i + 1) for i in range(count)]
    moments = [x.T @ x / len(x) for x in inputs]
    base = fit_shared_weight(weights, moments)
    best = lost(base, weights, moments)
    mean = torch.stack(weights).double().mean(dim=0)
    assert best <= lost(mean, weights, moments) * (1 + 1e-9) + 1e-9
    for size in (1e-3, 1e-1, 1.0):
        other = base + size * torch.randn(base.shape, generator=random, dtype=torch.float64)
        assert lost(other, weights, moments) >= best - 1e-9
    same = fit_shared_weight([weights[0]] * count, moments)
    assert torch.allclose(same, weights[0].double(), atol=1e-6)


def test_equal_inputs_make_it_the_mean() -> None:
    weights = [torch.randn(3, 4) for _ in range(3)]
    moment = torch.eye(4) * 2
    assert torch.allclose(fit_shared_weight(weights, [moment] * 3), torch.stack(weights).double().mean(0), atol=1e-6)
    assert torch.allclose(fit_shared_weight(weights, [None] * 3), torch.stack(weights).double().mean(0), atol=1e-6)


def place(blocks: int = 5, **changes: Any) -> Place:
    """A tower with two linear layers of 8 × 8 and a norm in every block."""
    tower = Tower("text", "text", tuple(f"layers.{i}" for i in range(blocks)))
    sites = []
    for i in range(blocks):
        for role in ("up", "down"):
            site = Site(f"layers.{i}.{role}", "text", i, role, "linear", (8, 8), bias=True, stored_bytes=288)
            sites.append(replace(site, **changes))
        sites.append(Site(f"layers.{i}.norm", "text", i, "norm", "norm", (8,), stored_bytes=32))
    return Place("text", tuple(sites), whole_tower=tower)


@pytest.mark.parametrize(("options", "expected"), [
    ({}, [(0, 1), (2, 3)]),
    ({"times": 3}, [(0, 1, 2), (3, 4)]),
    ({"kind": "cycle"}, [(0, 3), (1, 4)]),
    ({"kind": "cycle", "times": 3}, [(0, 2, 4), (1, 3)]),
    ({"times": 9}, [(0, 1, 2, 3, 4)]),
])  # fmt: skip
def test_which_blocks_share(options: dict[str, Any], expected: list[tuple[int, ...]]) -> None:
    found = find_sharing_groups(place(), SharedConfig(**options))
    assert [tuple(site.block for site in group) for group in found if group[0].role == "up"] == expected
    assert [tuple(site.block for site in group) for group in found if group[0].role == "down"] == expected


def test_bytes_follow_from_the_place_alone() -> None:
    whole = place()
    plain = METHOD.forecast(whole, SharedConfig(layers="up"))
    assert sum(s.stored_bytes for s in whole.sites) - sum(s.stored_bytes for s in plain) == 2 * 8 * 8 * 4
    owner = next(site for site in plain if site.path == "layers.0.up")
    assert owner.tied == ("layers.1.up",) and owner.stored_bytes == 288
    corrected = METHOD.forecast(whole, SharedConfig(layers="up", rank=1))
    saved = sum(s.stored_bytes for s in whole.sites) - sum(s.stored_bytes for s in corrected)
    assert saved == 2 * (8 * 8 - 2 * (8 + 8)) * 4


@pytest.mark.parametrize(("where", "options", "reason"), [
    (Place("text", (), whole_tower=Tower("text", "text")), {}, "only layers of a tower with blocks"),
    (place(stored="quantized"), {}, "no plain linear layer is of one shape"),
    (place(tied=("elsewhere",)), {}, "no plain linear layer is of one shape"),
    (place(own_forward=True), {}, "no plain linear layer is of one shape"),
    (place(), {"layers": "gate"}, "no plain linear layer that 'gate' matches"),
    (place(), {"rank": 4}, "a correction of rank 4 for each block takes more than sharing saves"),
    (place(1), {}, "no plain linear layer"),
])  # fmt: skip
def test_reasons_to_leave_a_tower_alone(where: Place, options: Any, reason: str) -> None:
    assert reason in (METHOD.refuse(where, SharedConfig(**options)) or "")


def _equal_blocks() -> nn.Module:
    words: dict[str, Any] = {**tiny.TEXT_SIZES, "num_hidden_layers": 4}
    return hf.LlamaForCausalLM(hf.LlamaConfig(**words, num_key_value_heads=2, attention_bias=True))


def _equalise_(module: nn.Module) -> None:
    """Give all blocks the linear weights of the first; norms and biases stay their own."""
    blocks: Any = module.model.layers  # type: ignore[union-attr]
    first = dict(blocks[0].named_modules())
    for block in blocks[1:]:
        for name, part in block.named_modules():
            if isinstance(part, nn.Linear):
                part.weight.data.copy_(first[name].weight)


@pytest.fixture
def equal_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiny.MINIATURES, "llama", _equal_blocks)  # type: ignore[arg-type]
    plain = tiny._enlarge_weights_

    def enlarge_(module: nn.Module) -> None:
        plain(module)
        with torch.no_grad():
            _equalise_(module)

    monkeypatch.setattr(tiny, "_enlarge_weights_", enlarge_)


@pytest.mark.usefixtures("equal_blocks")
@pytest.mark.parametrize("options", [{}, {"times": 4}, {"kind": "cycle"}, {"rank": 2}])
def test_sharing_equal_blocks_changes_nothing(compressed: Callable[..., Any], options: dict[str, Any]) -> None:
    done = compressed("llama", [{"share.layers": options}])
    batch = make_miniature_batch("llama", 3, seed=7)
    found, expected = (collect_outputs(model.module, batch)["logits"] for model in (done.model, done.original))
    assert torch.allclose(found, expected, atol=2e-5)
    assert done.records[0].error["text"] < 1e-10
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes


def test_the_record_says_what_the_layers_lose(compressed: Callable[..., Any]) -> None:
    """The closed form is what the layer's own inputs show, and a correction makes it less, the larger the better."""
    found = {rank: compressed("clip", [{"share.layers": {"rank": rank, "layers": "up"}}]) for rank in (0, 2, 8)}
    errors = {rank: [record.error for record in done.records] for rank, done in found.items()}
    for tower, name in enumerate(("image", "text")):
        assert 1 > errors[0][tower][name] > errors[2][tower][name] > errors[8][tower][name] > 0
    done = found[0]
    change = size = 0.0
    for batch in done.batches:
        seen: dict[str, Tensor] = {}
        paths = [s.path for s in done.original.layout.sites if (s.tower, s.role) == ("image", "up")]
        handles = [
            done.original.module.get_submodule(path).register_forward_pre_hook(
                lambda _, args, path=path, seen=seen: seen.__setitem__(path, args[0])  # type: ignore[misc]
            )
            for path in paths
        ]
        with torch.no_grad():
            done.original.module(**batch)
            for path in paths:
                before, after = (m.module.get_submodule(path) for m in (done.original, done.model))
                x = seen[path].flatten(0, 1)
                change += float((before(x) - after(x)).square().sum())
                size += float((x @ before.weight.T).square().sum())
        for handle in handles:
            handle.remove()
    assert errors[0][0]["image"] == pytest.approx(change / size, rel=1e-4)
    note = done.records[0].notes[0]
    assert note.startswith("up of blocks 0, 1: ") and "with the plain mean" in note


CHAINS: dict[str, list[Any]] = {
    "alone": [SHARED],
    "corrected": [{"share.layers": {"rank": 2}}],
    "quantized": [SHARED, {"quantize.gptq": {"bits": 4, "group": 16}}],
    "corrected-and-quantized": [{"share.layers": {"rank": 2}}, {"quantize.rtn": {"bits": 8}}],
    "quantized-twice": [SHARED, {"quantize.rtn": {"where": "text.*.up", "bits": 8}}, {"distill": {"steps": 1}}],
    "trained": [{"share.layers": {"rank": 2}}, {"distill": {"steps": 2}}, {"prune.magnitude": {"sparsity": 0.5}}],
    "cut-before": [{"prune.neurons": {"sparsity": 0.25}}, SHARED],
    "inputs-too": [SHARED, {"quantize.smooth": {"strength": 0.5, "clip": "max"}}],
}  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS)
def test_with_other_steps_it_is_stored_once_and_reloads(
    compressed: Callable[..., Any], chain: str, tmp_path: Path
) -> None:
    done = compressed("llama", CHAINS[chain])
    assert done.model.layout == done.expected
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    source = write_miniature("llama", tmp_path / "source")
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=source), done.plan, tmp_path / "out", None)
    with safe_open(tmp_path / "out" / "trimodal.safetensors", framework="pt") as file:
        assert not any("layers.1.mlp.up_proj" in name and "first" not in name and "second" not in name
                       for name in file.keys())  # noqa: SIM118  # fmt: skip
    again = open_model(tmp_path / "out")
    assert again.layout == done.model.layout
    assert [step for step in done.model.steps if step in again.steps] == again.steps  # the configuration says the others
    batch = make_miniature_batch("llama", 3, seed=5)
    expected = collect_outputs(done.model.module, batch)["logits"]
    assert torch.equal(collect_outputs(again.module, batch)["logits"], expected)
    blocks: Any = again.module.model.layers  # type: ignore[union-attr]
    one, two = (getattr(block.mlp.up_proj, "base", block.mlp.up_proj) for block in blocks)
    assert torch.equal(one.weight, two.weight)
    assert (one.stored is two.stored) if is_weight_parametrized(one) else (has_shared_weight(two) and two.weight is one.weight)
    said = again.module.generate(batch["input_ids"][:1], max_new_tokens=4, do_sample=False)  # type: ignore[operator]
    assert said.shape[1] == batch["input_ids"].shape[1] + 4


def test_what_counts_on_weights_of_their_own_is_refused(compressed: Callable[..., Any]) -> None:
    for step, reason in (
        ({"prune.heads": {}}, "shares its weight with .* prune before that|is already shared"),
        ({"prune.layers": {"sparsity": 0.5}}, "shares its weight; remove blocks before that"),
        ({"factorize.eigen": {"where": "text.1.up"}}, "already shared"),
        ({"factorize.eigen": {"where": "text.0.up"}}, "its weight is shared with"),
        ({"share.layers": {"kind": "cycle"}}, "no plain linear layer"),
    ):
        with pytest.raises(RecipeError, match=reason):
            compressed("llama", [SHARED, step])


def test_no_data_is_an_error(compressed: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match=r"share.layers\) needs calibration data for text"):
        compressed("llama", [SHARED], data=False)

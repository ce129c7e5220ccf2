"""Coded weights in training: they begin as they are stored, and what is stored in the end is what the last forward saw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.core.storage import tensor_specs_of
from trimodal.layers import CodedWeight
from trimodal.layers.trained_codes import LearnedParts, TrainedCodes, train_codes
from trimodal.maths.packing import unpack_codes
from trimodal.networks.tiny import make_miniature_batch

RECIPES: dict[str, list[dict[str, Any]]] = {
    "positive": [{"quantize.gptq": {"where": "*", "bits": 3, "group": 16}}],
    "signed": [{"quantize.rtn": {"where": "*", "bits": 2, "grid": "symmetric"}}],
    "zero-points": [{"quantize.gptq": {"where": "*", "bits": 2, "grid": "asymmetric", "group": 8}}],
    "float zero-points": [{"quantize.hqq": {"where": "*", "bits": 3, "group": 16, "steps": 3}}],
    "one scale": [{"quantize.rtn": {"where": "*", "bits": 4, "group": "tensor"}}],
    "table": [{"quantize.rtn": {"where": "*", "bits": 3, "grid": "nf", "group": 16}}],
    "k-means": [{"quantize.rtn": {"where": "*", "bits": 2, "grid": "kmeans"}}],
    "k-means per group": [{"quantize.rtn": {"where": "*", "bits": 2, "grid": "kmeans", "group": 16}}],
    "a tower's table": [{"quantize.rtn": {"where": "*", "bits": 3, "grid": "kmeans", "table": "tower"}}],
    "a tower's numbers": [{"quantize.rtn": {"where": "*", "bits": 3, "grid": "kmeans", "group": "tower"}}],
    "whole numbers": [{"quantize.entropy": {"where": "*", "bits": 3}}],
    "factors of columns": [{"quantize.awq": {"where": "*", "bits": 3}}],
    "rotated": [{"quantize.rotated": {"where": "*", "bits": 3, "feedback": False}}],
    "repairs": [{"quantize.rtn": {"where": "*", "bits": 3, "outliers": 0.01, "rank": 2}}],
    "mask": [{"prune.magnitude": {"where": "*", "sparsity": 0.5}}, {"quantize.rtn": {"where": "*", "bits": 3}}],
    "mask, k-means": [{"prune.magnitude": {"where": "*", "sparsity": 0.5}}, {"quantize.rtn": {"where": "*", "bits": 2, "grid": "kmeans"}}],
    "inputs": [{"quantize.smooth": {"where": "*", "bits": 4}}],
    "inputs per token": [{"quantize.smooth": {"where": "*", "bits": 4, "mode": "token"}}],
}
CASES = [("fusion", recipe) for recipe in RECIPES] + [("resnet", "inputs"), ("resnet", "zero-points"), ("lstm", "positive"),
                                                      ("mixtral", "positive"), ("mixtral", "k-means per group")]  # fmt: skip


def floats_of(output: Any) -> list[Tensor]:
    found = [output] if isinstance(output, Tensor) else output.values() if isinstance(output, dict) else vars(output).values()
    return [value for value in found if isinstance(value, Tensor) and value.is_floating_point()]


def same(one: Any, other: Any, tolerance: float = 0.0) -> bool:
    pairs = list(zip(floats_of(one), floats_of(other), strict=True))
    return bool(pairs) and all(torch.allclose(a, b, rtol=0, atol=tolerance) for a, b in pairs)


def disturb_(store: TrainedCodes) -> None:
    """What training does, without its sense: every parameter moves, some weights to other codes."""
    chance = torch.Generator().manual_seed(len(store.latent))
    with torch.no_grad():
        for name, parameter in store.named_parameters():
            size = 0.3 * float(parameter.abs().mean()) if name in ("latent", "numbers") else 0.1
            parameter.add_(size * torch.randn(parameter.shape, generator=chance))


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_begins_as_it_is_stored_and_stores_what_the_last_forward_saw(compressed: Any, name: str, recipe: str) -> None:
    done = compressed(name, RECIPES[recipe])
    module, batch = done.model.module.eval(), make_miniature_batch(name, 2)
    originals = {path: layer for path, layer in done.original.module.named_modules() if isinstance(getattr(layer, "weight", None), Tensor)}
    names, coded = set(module.state_dict()), [part for part in module.modules() if isinstance(part, CodedWeight)]
    tolerance = 1e-5 if name in ("lstm", "resnet") else 0.0  # convolutions add in an order that depends on where a tensor happens to lie
    with torch.no_grad():
        stored, decoded = module(**batch), [store() for store in coded]
    parts = LearnedParts("lsq+", "hard", "lsq+", 1.0)
    with train_codes(module, parts, lambda path: originals[path].weight if path in originals else None) as stores:
        with torch.no_grad():  # kernels may add in another order where a gradient is wanted
            assert same(module(**batch), stored, tolerance)
            assert all(torch.equal(store(), weight) for store, weight in zip(coded, decoded, strict=True))
            for store in stores:
                disturb_(store)
            trained = module(**batch)
        weights = [store().detach() for store in coded]
        assert not same(trained, stored, tolerance)
    with torch.no_grad():
        assert same(module(**batch), trained, tolerance)
    assert all(torch.equal(store(), weight) for store, weight in zip(coded, weights, strict=True))
    assert set(module.state_dict()) == names
    for store in stores:
        assert type(store) is CodedWeight
        specs = tensor_specs_of(store.kind, store.options)
        found = {n: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in store.named_buffers()}
        assert found == {n: (spec.shape, spec.dtype) for n, spec in specs.items()}


@pytest.mark.parametrize("rule", ["lsq", "lsq+", "pact"])
def test_ranges_of_inputs_are_stored_as_they_were_seen_and_stay_shared(compressed: Any, rule: Any) -> None:
    done = compressed("fusion", RECIPES["inputs"])
    module, batch = done.model.module.eval(), make_miniature_batch("fusion", 2)
    coded = [part for part in module.modules() if isinstance(part, CodedWeight) and "input_scale" in part._buffers]

    def ranges() -> list[tuple[float, float]]:
        return [(float(store.get_buffer("input_scale")), float(store.get_buffer("input_zero"))) for store in coded]

    before = ranges()
    with train_codes(module, LearnedParts("fixed", "fixed", rule, 1.0)) as stores:
        learned = {id(store._input_range): store._input_range for store in stores if store._input_range is not None}
        assert 1 < len(learned) < len(coded)
        for number, one in enumerate(learned.values()):
            with torch.no_grad():
                for move in one.parameters():
                    move.add_(0.1 if number % 2 else -0.1)
        with torch.no_grad():
            trained = module(**batch)
    with torch.no_grad():
        assert same(module(**batch), trained)
    after = ranges()
    assert all(new != old for new, old in zip(after, before))
    same_before = [[one == other for other in before] for one in before]
    assert [[one == other for other in after] for one in after] == same_before


def test_every_parameter_gets_a_gradient(compressed: Any) -> None:
    done = compressed("fusion", RECIPES["inputs"])
    module = done.model.module.eval()
    with train_codes(module, LearnedParts()) as stores:
        sum(value.square().sum() for value in floats_of(module(**make_miniature_batch("fusion", 2)))).backward()  # type: ignore[union-attr]
        for store in stores:
            for name, parameter in store.named_parameters():
                assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert sum(bool(store.latent.grad.any()) for store in stores) == len(stores)  # type: ignore[union-attr]


def test_gradients_go_through_quantized_inputs_to_what_is_before_them(compressed: Any) -> None:
    """Rounding has no slope of its own: a norm before a layer with quantized inputs would learn nothing from behind it."""
    module = compressed("fusion", RECIPES["inputs"]).model.module.eval()
    norms = [part for part in module.modules() if isinstance(part, nn.LayerNorm)]
    sum(value.square().sum() for value in floats_of(module(**make_miniature_batch("fusion", 2)))).backward()  # type: ignore[union-attr]
    assert norms and all(norm.weight.grad is not None and bool(norm.weight.grad.any()) for norm in norms)


def test_latent_weights_are_the_original_ones_where_codes_allow(compressed: Any) -> None:
    done = compressed("fusion", [{"quantize.rtn": {"where": "*", "bits": 4, "clip": "max"}}])
    originals = dict(done.original.module.named_modules())
    paths = {id(part): path for path, part in done.model.module.named_modules()}
    with train_codes(done.model.module, LearnedParts(), lambda path: originals[path].weight) as stores:
        for store in stores:
            weight = originals[paths[id(store)].removesuffix(".stored")].weight.flatten(1)
            assert torch.equal(store.latent.detach(), weight)


def test_masks_stay(compressed: Any) -> None:
    module = compressed("fusion", RECIPES["mask"]).model.module
    coded = [part for part in module.modules() if isinstance(part, CodedWeight) and "kept" in part.options]
    masks = [store.get_buffer("mask").clone() for store in coded]
    with train_codes(module, LearnedParts()) as stores:
        for store in stores:
            disturb_(store)
    for kept, mask in zip(coded, masks, strict=True):
        assert torch.equal(kept.get_buffer("mask"), mask)
        pruned = unpack_codes(mask, 1, kept.shape[1:].numel()) == 0
        assert bool((kept().detach().flatten(1)[pruned] == 0).all())

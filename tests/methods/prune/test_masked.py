"""What is pruned stays pruned when it is pruned again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from trimodal.core import Place, Site
from trimodal.maths.packing import unpack_codes
from trimodal.methods import get_method
from trimodal.methods.options import build_config
from trimodal.methods.prune.masked import forecast_sparse_site

SITE = Site("layer", "text", 0, "down", "linear", (8, 16))
AGAIN = [
    ("prune.magnitude", {"scope": "layer"}), ("prune.magnitude", {"scope": "row"}),
    ("prune.magnitude", {"refit": True}), ("prune.wanda", {}), ("prune.wanda", {"refit": False}), ("prune.ria", {}),
    ("prune.sparsegpt", {}), ("prune.obs", {"scope": "layer"}), ("prune.obs", {"scope": "row"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), AGAIN, ids=str)
@pytest.mark.parametrize("sparsity", [0.6, 0.8])
@pytest.mark.parametrize("even", [True, False])
def test_new_mask_lies_within_the_old_and_has_the_count(
    layer: Any, solved: Any, name: str, options: dict[str, Any], sparsity: float, even: bool
) -> None:
    """Also where the old mask left whole rows or columns empty; and an exact 0 among what was left is no pruned one."""
    weight = layer.weight[:32].clone()
    old = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    if not even:
        old = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.9
        old[:8], old[:, -20:] = False, False
    weight[old.nonzero()[:5].unbind(1)] = 0.0
    found = solved(get_method(name), weight, layer.moment, mask=old, sparsity=sparsity, **options)
    kept = found != 0
    assert not (kept & ~old).any()
    size = weight.shape[1] if options.get("scope") == "row" or name == "prune.wanda" else weight.numel()
    expected = (weight.numel() // size) * (size - round(size * sparsity))
    assert expected - 5 <= int(kept.sum()) <= expected


@pytest.mark.parametrize(("name", "options"), AGAIN, ids=str)
def test_same_sparsity_again_keeps_the_mask(layer: Any, solve: Any, name: str, options: dict[str, Any]) -> None:
    first = solve(get_method(name), layer.weight, layer.moment, sparsity=0.75, **options).treatments["layer"]
    mask = _mask(first, layer.weight.shape)
    second = solve(get_method(name), layer.weight, layer.moment, mask=mask, sparsity=0.75, **options).treatments["layer"]
    assert torch.equal(_mask(second, layer.weight.shape), mask)


def _mask(treatment: Any, shape: Any) -> Any:
    return unpack_codes(treatment.tensors["mask"], 1, shape[1]).bool()


@pytest.mark.parametrize("name", ["prune.magnitude", "prune.wanda", "prune.ria", "prune.sparsegpt", "prune.obs"])
def test_less_sparse_than_before_is_refused(name: str) -> None:
    used = get_method(name)
    (site,) = forecast_sparse_site(SITE, 32)
    place = Place("text.0.down", (site,))
    assert site.kept_weights == 32 and SITE.kept_weights == 128
    reason = used.refuse(place, build_config(used.config, {"sparsity": 0.5}, name))
    assert reason == "already sparse: it has 32 weights left, and 64 were to stay"
    assert used.refuse(place, build_config(used.config, {"sparsity": 0.75}, name)) is None
    coded = Place("text.0.down", (replace(site, stored="codebook"),))
    assert used.refuse(coded, build_config(used.config, {"sparsity": 0.9}, name)) == "already quantized (with a codebook)"


@pytest.mark.parametrize("name", ["prune.wanda", "prune.sparsegpt"])
def test_runs_of_a_pruned_site_are_refused(name: str) -> None:
    used = get_method(name)
    (site,) = forecast_sparse_site(SITE, 120)
    reason = used.refuse(Place("text.0.down", (site,)), build_config(used.config, {"kept": 2, "of": 4}, name))
    assert reason is not None and "unevenly in its runs" in reason


def test_pruning_again_makes_up_as_well_as_at_once(layer: Any, solved: Any) -> None:
    """Exact OBS removes in the same order, so that 0.5 and then 0.7 is nearly as good as 0.7 at once."""
    used = get_method("prune.obs")
    once = layer.error(solved(used, layer.weight, layer.moment, sparsity=0.7))
    half = solved(used, layer.weight, layer.moment, sparsity=0.5)
    twice = layer.error(solved(used, half, layer.moment, mask=half != 0, sparsity=0.7))
    assert twice < 1.3 * once

"""A pruned weight keeps its mask when it is quantized, whatever the grid."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimodal.core import Place, Site
from trimodal.core.storage import stored_bytes
from trimodal.methods import METHODS, get_method
from trimodal.methods.options import build_config
from trimodal.methods.prune.masked import forecast_sparse_site

GRIDS: list[dict[str, Any]] = [
    {"bits": 4}, {"bits": 4, "grid": "symmetric"}, {"bits": 3, "grid": "asymmetric", "group": 16}, {"bits": 16},
    {"bits": 4, "grid": "nf", "group": 32}, {"bits": 3, "grid": "pot"}, {"bits": 3, "grid": "kmeans", "group": "tensor"},
    {"bits": 2, "grid": "kmeans"}, {"bits": 2, "grid": "kmeans", "group": 16}, {"bits": 4, "clip": "output"},
]  # fmt: skip


@pytest.mark.parametrize("name", ["quantize.rtn", "quantize.gptq"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_zeros_stay_zero_and_take_a_bit_each(layer: Any, solve: Any, solved: Any, name: str, grid: Any) -> None:
    mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(2)) < 0.2
    mask[3], mask[:, 5] = False, False  # a row and a column of which nothing is left
    change = solve(get_method(name), layer.weight, layer.moment, mask=mask, **grid).treatments["layer"]
    found = solved(get_method(name), layer.weight, layer.moment, mask=mask, **grid)
    assert not found[~mask].any()
    assert change.options["kept"] == int(mask.sum())
    assert change.tensors["codes"].shape == (1, -(-int(mask.sum()) // 8) * grid["bits"])
    assert sum(t.numel() * t.element_size() for t in change.tensors.values()) == stored_bytes(change.kind, change.options)
    assert layer.error(found) < 3 * layer.error(layer.weight * mask) + 0.05


def test_kmeans_has_all_its_levels_for_what_is_left(solved: Any) -> None:
    """By hand: of (0, 1, 0, 2, 0, 3, 0, 4) with the odd places kept, four levels hold every weight exactly."""
    weight = torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0, 3.0, 0.0, 4.0]])
    found = solved(get_method("quantize.rtn"), weight, None, mask=weight != 0, bits=2, grid="kmeans", group="tensor")
    assert torch.equal(found, weight)


def test_kept_weights_at_zero_may_get_a_level(solved: Any) -> None:
    weight = torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0, 3.0, 0.0, 3.0]])
    mask = torch.tensor([[True, True, False, True], [False, True, False, True]])
    assert torch.equal(solved(get_method("quantize.rtn"), weight, None, mask=mask, bits=2, grid="kmeans", group="tensor"), weight)


def test_feedback_still_pays_on_a_pruned_weight(layer: Any, solved: Any) -> None:
    pruned = solved(get_method("prune.wanda"), layer.weight, layer.moment, sparsity=0.5)
    mask, grid = pruned != 0, {"bits": 3, "grid": "symmetric", "clip": "mse"}
    rounded, fed = (
        solved(get_method(name), pruned, layer.moment, mask=mask, **grid) for name in ("quantize.rtn", "quantize.gptq")
    )
    x = layer.fresh
    rounded_error, fed_error = (float((x @ (pruned - w).T).square().sum()) for w in (rounded, fed))
    assert fed_error < 0.8 * rounded_error


@pytest.mark.parametrize("name", [m.name for m in METHODS if m.kind == "quantize"])
def test_every_quantizer_keeps_the_mask_or_declines(name: str) -> None:
    used = get_method(name)
    (site,) = forecast_sparse_site(Site("layer", "text", 0, "down", "linear", (256, 256)), 4096)
    reason = used.refuse(Place("text.0.down", (site,)), used.config())
    assert reason == (None if name in ("quantize.rtn", "quantize.gptq") else "already sparse")


@pytest.mark.parametrize("repair", ["outliers", "rank"])
def test_repairs_that_fill_in_zeros_are_refused(repair: str) -> None:
    used = get_method("quantize.rtn")
    (site,) = forecast_sparse_site(Site("layer", "text", 0, "down", "linear", (256, 256)), 4096)
    config = build_config(used.config, {repair: 0.01 if repair == "outliers" else 2}, "rtn")
    assert used.refuse(Place("text.0.down", (site,)), config) == f"it is pruned, and {repair} would not leave its zeros alone"

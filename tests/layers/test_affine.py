"""The affine form gives the decoded weight back bit for bit on every even grid, and says why it does not on others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.core import Place, Site
from trimodal.layers import (
    Affine,
    CodedWeight,
    NotAffine,
    find_affine,
    make_weight_store,
    parametrize_weight_,
    replace_weight_,
)
from trimodal.layers.weight_sharing import share_weight_
from trimodal.maths.grid import UNIFORM
from trimodal.methods import get_method
from trimodal.methods.options import build_config
from trimodal.statistics import Moment

EVEN: list[tuple[str, dict[str, Any]]] = [
    *(("quantize.rtn", {"bits": bits, "grid": grid, "group": group})
      for bits, group in ((2, 16), (3, "channel"), (4, 24), (8, "tensor"), (16, "channel")) for grid in UNIFORM),
    ("quantize.hqq", {"bits": 3, "group": 16, "steps": 2}),
    ("quantize.learned", {"bits": 4, "steps": 2}),
    ("quantize.smooth", {"bits": 8, "strength": 0.0, "mode": "token"}),
]  # fmt: skip
BEYOND: list[tuple[str, dict[str, Any], str, tuple[str, ...]]] = [
    ("quantize.rtn", {"bits": 4, "grid": "nf"}, "not evenly spaced", ()),
    ("quantize.rtn", {"bits": 3, "grid": "kmeans"}, "not evenly spaced", ()),
    ("quantize.entropy", {"bits": 3.0}, "a step for each column", ()),
    ("quantize.rotated", {"bits": 4}, "rotated", ("rotation",)),
    ("quantize.awq", {"bits": 4}, "multiplied by a factor", ("columns",)),
    ("quantize.rtn", {"bits": 4, "outliers": 0.01}, "kept in float16", ("outliers",)),
    ("quantize.rtn", {"bits": 4, "rank": 2, "outliers": 0.01}, "low-rank correction.*; single weights", ("rank", "outliers")),
]  # fmt: skip


def stored(layer: Layer, method: str, options: dict[str, Any], mask: Tensor | None = None) -> CodedWeight:
    """The layer's weight as `method` stores it."""
    found, weight = get_method(method), layer.weight if mask is None else layer.weight * mask
    site = Site("layer", "text", 0, "down", "linear", tuple(weight.shape))
    if mask is not None:
        mask_bytes = 64 * 12
        site = Site("layer", "text", 0, "down", "linear", tuple(weight.shape), stored="sparse",
                    stored_bytes=int(mask.sum()) * 4 + mask_bytes)  # fmt: skip
    weights = {"layer.weight": weight, **({} if mask is None else {"layer.mask": mask.bool()})}
    place, config = Place("p", (site,)), build_config(found.config, options, method)
    assert found.solve is not None
    statistic = layer.moment if found.wants(place, config) is not None else None
    (treatment,) = found.solve(place, weights, statistic, config).treatments.values()
    store = make_weight_store(treatment.kind, treatment.options, treatment.tensors)
    assert isinstance(store, CodedWeight)
    return store


@dataclass
class Layer:
    """W (64, 96) and the moment of its inputs, some of them loud."""

    weight: Tensor
    moment: Moment


@pytest.fixture(scope="module")
def case() -> Layer:
    random = torch.Generator().manual_seed(0)
    moment = Moment(96)
    moment.update(torch.randn(512, 96, generator=random) * torch.logspace(-1, 1, 96))
    return Layer(torch.randn(64, 96, generator=random), moment)


@pytest.mark.parametrize(("method", "options"), EVEN, ids=str)
def test_even_grids_are_affine_to_the_bit(case: Layer, method: str, options: dict[str, Any]) -> None:
    store = stored(case, method, options)
    found = store.affine()
    assert isinstance(found, Affine)
    assert torch.equal(found.decode(), store()) and found.decode().dtype == torch.float32
    assert found.codes.dtype == torch.int32 and 0 <= int(found.codes.min()) <= int(found.codes.max()) < 2**found.bits
    assert found.axis == 1 and found.shape == (64, 96) and found.whole_zero == (method != "quantize.hqq")
    assert found.scale.shape == found.zero.shape
    assert found.scale.shape in ((1, 1), (64, -(-96 // found.group)))
    by_hand = found.scale.repeat_interleave(found.group, 1)[:, :96] * (
        found.codes - found.zero.repeat_interleave(found.group, 1)[:, :96]
    )
    assert torch.equal(by_hand.expand(64, 96), store())


@pytest.mark.parametrize("grid", UNIFORM)
def test_pruned_weights_have_the_code_of_zero(case: Layer, grid: str) -> None:
    mask = (torch.rand(64, 96, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    store = stored(case, "quantize.rtn", {"bits": 4, "grid": grid, "group": 16}, mask)
    found = store.affine()
    assert isinstance(found, Affine)
    assert torch.equal(found.decode(), store()) and not found.decode()[mask == 0].any()


@pytest.mark.parametrize(("method", "options", "reason", "beyond"), BEYOND, ids=str)
def test_others_say_why_not(case: Layer, method: str, options: dict[str, Any], reason: str, beyond: tuple[str, ...]) -> None:
    store = stored(case, method, options)
    found = store.affine()
    assert isinstance(found, NotAffine) and found.beyond == beyond
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found.reason)
    if not beyond:
        assert found.inner is None
        return
    assert found.inner is not None
    if beyond == ("columns",):
        assert torch.equal(found.inner.decode() * store.get_buffer("columns").float(), store())
    left = {"rotation", "columns", "rank", "outliers"}
    bare = CodedWeight(store.kind, {n: v for n, v in store.options.items() if n not in left}, {
        n: t for n, t in store.named_buffers() if n in ("codes", "scale", "zero")})  # fmt: skip
    assert torch.equal(found.inner.decode(), bare())


def test_by_path_through_sharing_and_chains(case: Layer) -> None:
    model = nn.Sequential(nn.Linear(96, 64, bias=False), nn.Linear(96, 64), nn.Linear(8, 8), nn.ReLU(), nn.Linear(96, 64))
    store = stored(case, "quantize.rtn", {"bits": 4})
    parametrize_weight_(model[0], store)
    share_weight_(model[1], model[0])
    factors = {"first": torch.randn(2, 8), "second": torch.randn(8, 2)}
    options = {"shape": [8, 8], "dtype": "float32", "rank": 2, "embedding": False}
    model[2] = replace_weight_(model[2], "low_rank", options, factors, None)
    weight = torch.randn(64, 96)
    kept = {"values": weight[:, :48].flatten(), "mask": torch.tensor([255] * 6 + [0] * 6, dtype=torch.uint8).repeat(64, 1)}
    replace_weight_(model[4], "sparse", {"shape": [64, 96], "dtype": "float32", "kept": 64 * 48}, kept, None)
    for path in ("0", "1"):
        found = find_affine(model, path)
        assert isinstance(found, Affine) and torch.equal(found.decode(), store())
    for path, words in {
        "2": "ask for 2.first, 2.second", "2.first": "plain float32 numbers", "3": "no weight", "4": "beside a mask",
    }.items():  # fmt: skip
        refusal = find_affine(model, path)
        assert isinstance(refusal, NotAffine) and words in refusal.reason
    with pytest.raises(AttributeError):
        find_affine(model, "9")

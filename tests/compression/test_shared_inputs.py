"""Layers with one input: found by what they are given, quantized once, and factors where something before can take them over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trimodal.compression import open_context
from trimodal.compression.producers import find_producer, fold_factor
from trimodal.compression.solve_context import SolveContext
from trimodal.core import Place, Sample
from trimodal.edits.apply import apply_change_
from trimodal.formats import open_model, write_artifact
from trimodal.formats.reload_check import collect_outputs
from trimodal.models.model import Model
from trimodal.networks.tiny import make_miniature_batch, write_miniature
from trimodal.verification.checks import bytes_check

PRODUCERS: list[tuple[str, str, str]] = [
    ("llama", "query", "text.0.attention.norm"), ("llama", "output", "text.0.value"),
    ("llama", "up", "text.0.mlp.norm"), ("llama", "down", "text.0.up"),
    ("clip", "query", "text.0.attention.norm"), ("clip", "output", "text.0.value"), ("clip", "up", "text.0.mlp.norm"),
    ("clip", "down", ""),  # behind a GELU
    ("bert", "query", ""), ("bert", "up", ""), ("bert", "down", ""),  # the residual stream reads its norms
    ("bert", "output", "text.0.value"),
]  # fmt: skip


@pytest.fixture
def context(tiny_model: Callable[..., Model], stand_in_samples: Any) -> Iterator[Callable[[str], SolveContext]]:
    """A miniature with a batch of data, by name."""
    batch: list[Mapping[str, Tensor]] = []
    with stand_in_samples(batch) as samples:

        def opened(name: str) -> SolveContext:
            batch[:] = [make_miniature_batch(name, 4, 1)]
            return open_context(tiny_model(name), [*samples, Sample(0)], original=tiny_model(name))

        yield opened


def readers_of(context: SolveContext, role: str) -> list[Any]:
    """The sites of the text tower's first block with the input of `role`."""
    roles = {"query": ("query", "key", "value"), "up": ("up", "gate")}.get(role, (role,))
    return [site for site in context.model.layout.sites if site.name in {f"text.0.{one}" for one in roles}]


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(("name", "role", "expected"), PRODUCERS)
def test_what_takes_a_factor_over_is_found_by_trying(context: Any, name: str, role: str, expected: str) -> None:
    here = context(name)
    before, readers = state(here.model.module), readers_of(here, role)
    found = find_producer(here, readers)
    assert (found.site.name if found else "") == expected
    after = state(here.model.module)
    assert all(torch.equal(after[key], before[key]) for key in before), "trying leaves no trace"


@pytest.mark.parametrize(("name", "role"), [(name, role) for name, role, expected in PRODUCERS if expected])
def test_a_folded_factor_changes_nothing(context: Any, name: str, role: str) -> None:
    """Random factors, between 0.4 and 2.7; of a llama's grouped queries two share the value of one channel."""
    here = context(name)
    module, batch = here.model.module, make_miniature_batch(name, 3, 9)
    before, readers = collect_outputs(module, batch), readers_of(here, role)
    producer = find_producer(here, readers)
    factor = torch.randn(len(producer.rows), generator=torch.Generator().manual_seed(1)).exp()[producer.ties]
    old = state(module)
    sites = (producer.site, *readers)
    apply_change_(here.model, Place("fold", sites), fold_factor(here, producer, readers, factor), sites)
    after = collect_outputs(module, batch)
    assert all(torch.allclose(after[key], before[key], atol=2e-5, rtol=2e-5) for key in before)
    changed = {key.rpartition(".")[0] for key, value in module.state_dict().items() if not torch.equal(value, old[key])}
    assert changed == {site.path for site in sites}


def test_a_factor_goes_through_a_relu_into_the_convolution_before_it(context: Any) -> None:
    """relu(x) · c = relu(x · c). What the residual reads too has no producer."""
    here = context("resnet")
    module, batch = here.model.module, make_miniature_batch("resnet", 3, 9)
    for path, layer in list(module.named_modules()):
        if isinstance(layer, torch.nn.BatchNorm2d):
            module.set_submodule(path, torch.nn.Identity())  # as after fold.exact
    sites, before = {site.name: site for site in here.model.layout.sites}, collect_outputs(module, batch)
    assert find_producer(here, [sites["image.1.1.conv"]]) is None
    for name, expected in (("image.1.2.conv", "image.1.1.conv"), ("image.1.3.conv", "image.1.2.conv")):
        producer = find_producer(here, [sites[name]])
        assert producer is not None and producer.site.name == expected
        factor = 2.0 ** torch.randint(-3, 4, (len(producer.rows),), generator=torch.Generator().manual_seed(1))[producer.ties]
        changed = (producer.site, sites[name])
        apply_change_(here.model, Place("fold", changed), fold_factor(here, producer, [sites[name]], factor), changed)
    after = collect_outputs(module, batch)
    assert all(torch.allclose(after[key], before[key], atol=1e-6, rtol=1e-6) for key in before)


def test_no_half_precision_and_no_tied_weight_takes_part(context: Any) -> None:
    here = context("llama")
    assert find_producer(here, [replace(site, dtype="bfloat16") for site in readers_of(here, "query")]) is None
    assert find_producer(here, [replace(site, tied=("elsewhere",)) for site in readers_of(here, "query")]) is None


@pytest.mark.parametrize("fold", ["never", "auto"])
@pytest.mark.parametrize("name", ["llama", "clip", "bert"])
def test_layers_with_one_input_share_factor_and_range(compressed: Any, name: str, fold: str) -> None:
    done = compressed(name, [{"quantize.smooth": {"clip": "max", "mode": "static", "fold_factors": fold}}])
    stores = {
        site.name: done.model.module.get_submodule(site.path).stored
        for site in done.model.layout.sites if site.stored == "quantized" and site.tower == "text" and site.block == 0
    }  # fmt: skip
    ranges = {place: (float(store.input_scale), int(store.input_zero)) for place, store in stores.items()}
    assert ranges["text.0.query"] == ranges["text.0.key"] == ranges["text.0.value"]
    assert len(set(ranges.values())) == len([name for name in ranges if name.rpartition(".")[2] not in ("key", "value", "gate")])
    folded = {f"text.0.{role}" for kind, role, expected in PRODUCERS if kind == name and expected} if fold == "auto" else set()
    folded |= {"text.0.key", "text.0.value"} if "text.0.query" in folded else set()
    folded |= {"text.0.gate"} & set(stores) if "text.0.up" in folded else set()
    bare = {place for place, store in stores.items() if "columns" not in store._buffers}
    assert folded <= bare and (fold == "auto" or not bare)  # where nothing is smoothed there is no factor to keep either
    if fold == "never":
        assert torch.equal(stores["text.0.query"].columns, stores["text.0.value"].columns)
    notes = {record.place: " ".join(record.notes) for record in done.records}
    assert "one input with text.0.key, text.0.value" in notes["text.0.query"]
    assert all(("factors folded into" in notes[place]) == (place in folded) for place in stores)


@pytest.mark.parametrize("name", ["llama", "clip"])
def test_a_folded_artifact_reloads_with_fewer_bytes(compressed: Any, name: str, tmp_path: Any) -> None:
    folder = write_miniature(name, tmp_path / "in")
    done = compressed(name, [{"quantize.smooth": {"clip": "max", "mode": "choose", "fold_factors": "auto"}}])
    check = bytes_check(done.model, done.plan, done.records)
    assert done.plan.certainty == "at most" and check.passed, check
    kept = compressed(name, [{"quantize.smooth": {"clip": "max", "fold_factors": "never"}}])
    assert sum(r.bytes_after for r in done.records) < sum(r.bytes_after for r in kept.records) <= sum(
        place.bytes_after for place in done.plan.edits[0].places
    )
    write_artifact(replace(done.model, folder=folder), done.plan, tmp_path / "out", None)
    batch = make_miniature_batch(name, 3, 9)
    before, after = (collect_outputs(m.module, batch) for m in (done.model, open_model(tmp_path / "out")))
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(0 < error < 0.01 for record in done.records for error in record.error.values())

"""Checks that need no forward pass; `bytes_check` of estimates stands in tests/compression/test_allocation.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trimodal.core import FitRecord, TowerSize
from trimodal.inventory import inspect
from trimodal.verification.checks import bytes_check, compare_towers, find_skipped_places, source_check


def test_bytes_that_a_plan_promised_exactly(compressed: Callable[..., Any]) -> None:
    done = compressed("bert", [{"quantize.rtn": {"where": "*.up", "bits": 8}}])
    assert bytes_check(done.model, done.plan, done.records).passed
    assert bytes_check(done.model, replace(done.plan, expected_tensor_bytes=done.plan.expected_tensor_bytes - 1), done.records).failed
    assert bytes_check(done.original, done.plan, done.records).failed


def test_places_that_were_left_alone_after_all(compressed: Callable[..., Any]) -> None:
    done = compressed("bert", [{"quantize.rtn": {"where": "*.up", "bits": 8}}])
    first, *rest = done.records
    skipped = [replace(first, notes=("left alone: no sample came there",)), *rest, FitRecord(1, "distill", 0, {}, 0.0)]
    assert find_skipped_places(skipped) == {(0, first.place)} and find_skipped_places(done.records) == set()


def test_whose_compressed_model_it_is(compressed: Callable[..., Any]) -> None:
    done = compressed("bert", [{"quantize.rtn": {"where": "*.up", "bits": 8}}])
    plan = replace(done.plan, source=replace(done.plan.source, fingerprint="ab" * 32))
    assert source_check("ab" * 32, plan).passed
    check = source_check("cd" * 32, plan)
    assert check.failed and check.detail == "fingerprint cdcdcdcdcdcd, in the plan abababababab"


def test_sizes_by_tower(compressed: Callable[..., Any]) -> None:
    done = compressed("clip", [{"prune.neurons": {"where": "image.*", "sparsity": 0.5}}])
    before, after = inspect(done.original, count=False), inspect(done.model, count=False)
    image, text = compare_towers(before, after)
    assert isinstance(image, TowerSize) and (image.tower, text.tower) == ("image", "text")
    assert text.parameters_before == text.parameters_after and text.bytes_before == text.bytes_after
    assert image.bytes_before - image.bytes_after == 4 * (image.parameters_before - image.parameters_after) > 0

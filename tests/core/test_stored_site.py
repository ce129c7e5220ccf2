"""What storage options mean in words, and that nothing else is believed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from trimodal.core import Layout, Site
from trimodal.core.stored_site import (
    Kept,
    StoredInput,
    StoredSite,
    StoredWeight,
    describe_input,
    describe_parts,
    describe_weight,
    forecast_stored_site,
)

EVEN: dict[str, Any] = {
    "shape": [8, 4, 3], "dtype": "float32", "bits": 4, "group": 12, "exponent": 0, "zero": None, "shared": False,
}  # fmt: skip
CODEBOOK: dict[str, Any] = {"shape": [8, 12], "dtype": "float32", "bits": 4, "group": 6, "exponent": 0, "tables": "tensor", "scaled": True}


@pytest.mark.parametrize(("kind", "options", "words"), [
    ("quantized", {**EVEN, "positive": True}, StoredWeight(4, "channel", "positive", False, "float16")),
    ("quantized", EVEN, StoredWeight(4, "channel", "signed", False, "float16")),
    ("quantized", {**EVEN, "group": 8}, StoredWeight(4, 8, "signed", False, "float16")),
    ("quantized", {**EVEN, "shared": True, "zero": "uint8"}, StoredWeight(4, "tensor", "asymmetric", "uint8", "float16")),
    ("quantized", {**EVEN, "bits": 16, "zero": "int32"}, StoredWeight(16, "channel", "asymmetric", "int32", "float16")),
    ("codebook", CODEBOOK, StoredWeight(4, 6, "nf", False, "float16")),
    ("codebook", {**CODEBOOK, "scaled": False}, StoredWeight(4, 6, "nf", False, None)),
    ("integers", {"shape": [8, 12], "dtype": "float32", "exponent": 0}, StoredWeight(8, "column", "whole numbers", False, "float16")),
    ("dense", {"shape": [8], "dtype": "float32"}, None), ("sparse", {"shape": [8, 2], "dtype": "float32", "kept": 4}, None),
])  # fmt: skip
def test_weights(kind: str, options: dict[str, Any], words: StoredWeight | None) -> None:
    assert describe_weight(kind, options, "nf") == words


def test_inputs_and_parts() -> None:
    static = {"shape": [8, 12], "inputs": {"bits": 8, "mode": "static"}}
    assert describe_input(static, 0.5, 55.0) == StoredInput(8, "static", (-27.5, 100.0))
    assert describe_input({"shape": [8, 12], "inputs": {"bits": 6, "mode": "token"}}) == StoredInput(6, "per token")
    assert describe_input({"shape": [8, 12, 3], "inputs": {"bits": 6, "mode": "token"}}) == StoredInput(6, "per sample")
    assert describe_input(static) == StoredInput(8, "static") and describe_input(EVEN) is None
    found = describe_parts({**EVEN, "rank": 3, "outliers": 7, "rotation": 4, "columns": True})
    assert found == {"outliers": 7, "correction_rank": 3, "rotated_columns": 4, "scaled_columns": True}


def test_only_what_says_something_is_written() -> None:
    plain = StoredSite("a.b", (2, 3), "float32", "dense", 24)
    assert plain.to_json() == {
        "path": "a.b", "shape": (2, 3), "dtype": "float32", "kind": "dense", "bytes": 24,
    }  # fmt: skip
    masked = StoredSite("a", (2, 4), "float32", "sparse", 24, kept=Kept(4, 8, "2:4"), tied=("c",))
    assert masked.to_json()["tied"] == ("c",) and masked.to_json()["kept"] == {"weights": 4, "of": 8, "pattern": "2:4"}


def _as_read(**values: Any) -> dict[str, Any]:
    site = StoredSite("a.b", (2, 3), "float32", "quantized", 24, StoredWeight(4, 2, "positive", False, "float16")).to_json()
    return {**site, "shape": [2, 3], **values}


def test_reading_gives_back_what_was_written() -> None:
    found = StoredSite.from_json(_as_read(rank=[4, 8], tied=["x"], input={"bits": 8, "mode": "static", "range": [-1, 2.5]}))
    assert found.rank == (4, 8) and found.tied == ("x",) and found.input == StoredInput(8, "static", (-1.0, 2.5))


@pytest.mark.parametrize(("values", "words"), [
    ({"shape": [2, -3]}, r"a\.b: shape is"), ({"shape": 2}, "shape is 2"), ({"shape": [True]}, "shape is"),
    ({"dtype": "int8"}, "dtype is"), ({"dtype": ["float32"]}, "dtype is"), ({"kind": "zip"}, "kind is 'zip'"),
    ({"bytes": -1}, "bytes is -1"), ({"bytes": 1.5}, "bytes is"), ({"rank": [4, "x"]}, "rank is"), ({"rank": []}, "rank is"),
    ({"tied": [1]}, "tied is"), ({"shared_with": 5}, "shared_with is 5"), ({"outliers": "x"}, "outliers is"),
    ({"scaled_columns": 1}, "scaled_columns is 1"), ({"weight": {"bits": 4}}, "weight is"),
    *(({"weight": {"bits": 4, "group": 2, "grid": "positive", "zero_point": False, "scale_dtype": "float16", **wrong}}, name)
      for wrong, name in (
          ({"bits": 0}, "weight.bits"), ({"bits": 17}, "weight.bits"), ({"bits": "4"}, "weight.bits"), ({"group": 0}, "weight.group"),
          ({"group": "row"}, "weight.group"), ({"grid": "magic"}, "weight.grid"), ({"grid": ["nf"]}, "weight.grid"),
          ({"zero_point": True}, "weight.zero_point"), ({"zero_point": 0}, "weight.zero_point"), ({"scale_dtype": "int4"}, "scale_dtype"))),
    *(({"input": {"bits": 8, "mode": "static", "range": [0, 1], **wrong}}, name)
      for wrong, name in (
          ({"bits": 3}, "input.bits"), ({"mode": "x"}, "input.mode"), ({"range": None}, "input.range"), ({"range": [1, 2]}, "input.range"),
          ({"range": [0, "x"]}, "input.range"), ({"mode": "per token"}, "input.range"), ({"range": [float("nan"), 1]}, "input.range"))),
    ({"kept": {"weights": 9, "of": 8, "pattern": None}}, "kept is"), ({"kept": {"weights": 1, "of": 8, "pattern": 3}}, "kept is"),
    ({"new": 1}, "new is missing or unknown"),
])  # fmt: skip
def test_wrong_values_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StoredSite.from_json(_as_read(**values))


@pytest.mark.parametrize("data", [None, 7, [], {"path": 3}, {}])
def test_no_site_at_all(data: Any) -> None:
    with pytest.raises(ValueError, match="names no path"):
        StoredSite.from_json(data)


def test_nothing_but_a_path() -> None:
    with pytest.raises(ValueError, match=r"a: .* is missing or unknown"):
        StoredSite.from_json({"path": "a"})


def test_a_forecast_says_what_storage_options_say() -> None:
    site = Site("a.up", "text", 0, "up", "linear", (8, 12), bias=True)
    assert forecast_stored_site(site) == StoredSite("a.up", (8, 12), "float32", "dense", 0)
    options = {"shape": [8, 12], "dtype": "float32", "bits": 8, "group": 12, "exponent": 0, "zero": None, "shared": False,
               "positive": True, "columns": True, "inputs": {"bits": 8, "mode": "static"}}  # fmt: skip
    stored = forecast_stored_site(site.store_as("quantized", options))
    assert stored.weight == StoredWeight(8, "channel", "positive", False, "float16") and stored.scaled_columns
    assert stored.input == StoredInput(8, "static") and stored.bytes == 8 * 16 + 16 + 24 + 5 + 32
    table = forecast_stored_site(site.store_as("codebook", CODEBOOK, "sf"))
    assert table.weight == StoredWeight(4, 6, "sf", False, "float16")
    sparse = forecast_stored_site(site.store_as("sparse", {"shape": [8, 12], "dtype": "float32", "kept": 40}))
    assert sparse.kept == Kept(40, 96) and sparse.weight is None


def test_options_that_a_plan_gives_a_site_are_no_part_of_it() -> None:
    site = Site("a.up", "text", 0, "up", "linear", (8, 12))
    stored = site.store_as("quantized", {**EVEN, "shape": [8, 12]})
    assert stored == replace(stored, storage=None) and hash(stored) == hash(replace(stored, storage=None))
    assert "storage" not in Layout((), (stored,)).to_json()["sites"][0]

"""What storage says of tensors and bytes, counted by hand, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from trimodal.core.storage import (
    KINDS,
    StorageError,
    TensorSpec,
    group_size,
    packed_columns,
    stored_bytes,
    tensor_specs_of,
)  # fmt: skip

WEIGHT: dict[str, Any] = {"shape": [6, 20], "dtype": "float32"}
QUANTIZED: dict[str, Any] = {**WEIGHT, "bits": 3, "group": 8, "exponent": 0, "zero": None, "shared": False}
CODEBOOK: dict[str, Any] = {**WEIGHT, "bits": 4, "group": 8, "exponent": 0, "tables": "tensor", "scaled": True}
INTEGERS: dict[str, Any] = {**WEIGHT, "exponent": 0}
CODED = [("quantized", QUANTIZED), ("codebook", CODEBOOK), ("integers", INTEGERS)]


def specs(kind: str, options: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (spec.shape, spec.dtype) for name, spec in tensor_specs_of(kind, options).items()}


def test_eight_codes_take_as_many_bytes_as_bits() -> None:
    assert [packed_columns(n, 3) for n in (1, 8, 9, 20)] == [3, 3, 6, 9]
    assert packed_columns(7, 16) == 16 and TensorSpec((3, 4), "float16").bytes == 24


def test_group_in_words() -> None:
    assert [group_size(g, 20) for g in ("tensor", "channel", 8, 32)] == [20, 20, 8, 20]


@pytest.mark.parametrize(("kind", "options", "expected", "total"), [
    ("dense", WEIGHT, {"weight": ((6, 20), "float32")}, 480),
    ("low_rank", {**WEIGHT, "rank": 2, "embedding": False}, {
        "first": ((2, 20), "float32"), "second": ((6, 2), "float32")}, 208),
    ("low_rank", {**WEIGHT, "rank": 2, "embedding": True}, {
        "first": ((6, 2), "float32"), "second": ((20, 2), "float32")}, 208),
    ("low_rank", {"shape": [6, 5, 2, 2], "dtype": "float16", "rank": 3, "embedding": False}, {
        "first": ((3, 5, 2, 2), "float16"), "second": ((6, 3, 1, 1), "float16")}, 156),
    ("tucker", {"shape": [6, 5, 3, 2], "dtype": "float16", "ranks": [2, 4]}, {
        "first": ((2, 5, 1, 1), "float16"), "second": ((4, 2, 3, 2), "float16"), "third": ((6, 4, 1, 1), "float16")}, 164),
    ("tucker", {"shape": [6, 5, 3], "dtype": "float32", "ranks": [5, 6]}, {
        "first": ((5, 5, 1), "float32"), "second": ((6, 5, 3), "float32"), "third": ((6, 6, 1), "float32")}, 604),
    ("cp", {"shape": [6, 5, 3, 2], "dtype": "float32", "rank": 7}, {
        "first": ((7, 5, 1, 1), "float32"), "second": ((7, 1, 3, 1), "float32"),
        "third": ((7, 1, 1, 2), "float32"), "fourth": ((6, 7, 1, 1), "float32")}, 448),
    ("cp", {"shape": [6, 5, 3], "dtype": "float32", "rank": 7}, {
        "first": ((7, 5, 1), "float32"), "second": ((7, 1, 3), "float32"), "third": ((6, 7, 1), "float32")}, 392),
    ("sparse", {**WEIGHT, "kept": 50}, {"values": ((50,), "float32"), "mask": ((6, 3), "uint8")}, 218),
    ("quantized", QUANTIZED, {"codes": ((6, 9), "uint8"), "scale": ((6, 3), "float16")}, 90),
    ("quantized", {**QUANTIZED, "zero": "uint8"}, {
        "codes": ((6, 9), "uint8"), "scale": ((6, 3), "float16"), "zero": ((6, 3), "uint8")}, 108),
    ("quantized", {**QUANTIZED, "zero": "float16"}, {
        "codes": ((6, 9), "uint8"), "scale": ((6, 3), "float16"), "zero": ((6, 3), "float16")}, 126),
    ("quantized", {**QUANTIZED, "bits": 16, "group": 20, "zero": "int32", "shared": True}, {
        "codes": ((6, 48), "uint8"), "scale": ((1, 1), "float16"), "zero": ((1, 1), "int32")}, 294),
    ("codebook", CODEBOOK, {
        "codes": ((6, 12), "uint8"), "levels": ((1, 16), "float16"), "scale": ((6, 3), "float16")}, 140),
    ("codebook", {**CODEBOOK, "tables": "group", "scaled": False}, {
        "codes": ((6, 12), "uint8"), "levels": ((18, 16), "float16")}, 648),
    ("codebook", {**CODEBOOK, "tables": "channel", "scaled": False, "group": 20}, {
        "codes": ((6, 12), "uint8"), "levels": ((6, 16), "float16")}, 264),
    ("codebook", {**CODEBOOK, "tables": "tower", "scaled": False}, {
        "codes": ((6, 12), "uint8"), "levels": ((1, 16), "float16")}, 104),
    ("codebook", {**CODEBOOK, "tables": "borrowed"}, {"codes": ((6, 12), "uint8"), "scale": ((6, 3), "float16")}, 108),
    ("integers", INTEGERS, {"codes": ((6, 20), "int8"), "scale": ((1, 20), "float16")}, 160),
])  # fmt: skip
def test_tensors_and_bytes_by_hand(kind: str, options: Any, expected: Any, total: int) -> None:
    assert specs(kind, options) == expected and stored_bytes(kind, options) == total


@pytest.mark.parametrize(("kind", "options"), CODED)
def test_parts_are_there_where_their_option_is(kind: str, options: Any) -> None:
    more = {"rotation": 4, "columns": True, "rank": 2, "outliers": 5}
    parts = {
        "signs": ((1, 3), "uint8"), "columns": ((1, 20), "float16"), "left": ((6, 2), "float16"),
        "right": ((2, 20), "float16"), "outliers": ((5,), "float16"), "places": ((5,), "int32"),
    }  # fmt: skip
    assert specs(kind, {**options, **more}) == {**specs(kind, options), **parts}
    assert stored_bytes(kind, {**options, **more}) == stored_bytes(kind, options) + 3 + 40 + 24 + 80 + 10 + 20


@pytest.mark.parametrize(("kind", "change", "message"), [
    ("huffman", {}, "kind of storage 'huffman'"),
    (["quantized"], {}, "kind of storage"),
    ("quantized", {"shape": []}, "the shape"),
    ("quantized", {"shape": [6, -1]}, "the shape"),
    ("quantized", {"shape": "6x20"}, "the shape"),
    ("quantized", {"dtype": "int8"}, "the type 'int8'"),
    ("quantized", {"dtype": ["float32"]}, "the type"),
    ("quantized", {"bits": 0}, "bits 0"),
    ("quantized", {"bits": 17}, "bits 17"),
    ("quantized", {"bits": True}, "bits True"),
    ("quantized", {"bits": 3.0}, "bits 3.0"),
    ("quantized", {"group": 0}, "group 0"),
    ("quantized", {"exponent": 5000}, "exponent of 5000"),
    ("quantized", {"zero": "float64"}, "zero-points of 'float64'"),
    ("quantized", {"zero": ["uint8"]}, "zero-points of"),
    ("quantized", {"shared": 1}, "shared 1"),
    ("quantized", {"colour": "red"}, "with the options"),
    ("quantized", {"rotation": 3}, "blocks of 3"),
    ("quantized", {"rotation": 8}, "blocks of 8 of 20"),
    ("quantized", {"rotation": 64}, "rotation 64"),
    ("quantized", {"columns": False}, "scaling of columns False"),
    ("quantized", {"rank": 7}, "rank 7"),
    ("quantized", {"outliers": 121}, "outliers 121"),
    ("quantized", {"outliers": -1}, "outliers -1"),
    ("codebook", {"bits": 9}, "bits 9"),
    ("codebook", {"tables": "row"}, "tables per 'row'"),
    ("codebook", {"tables": ["tensor"]}, "tables per"),
    ("codebook", {"scaled": None}, "scaled None"),
    ("integers", {"exponent": None}, "exponent of None"),
    ("integers", {"bits": 4}, "with the options"),
])  # fmt: skip
def test_what_describes_no_storage_is_refused(kind: Any, change: dict[str, Any], message: str) -> None:
    known = dict(CODED)
    options = known[kind] if isinstance(kind, str) and kind in known else QUANTIZED
    with pytest.raises(StorageError, match=message):
        tensor_specs_of(kind, {**options, **change})


@pytest.mark.parametrize(("kind", "options", "message"), [
    ("tucker", {"shape": [6, 20], "ranks": [2, 2]}, "a convolution's factors for the shape"),
    ("tucker", {"shape": [6, 5, 1, 3, 3], "ranks": [2, 2]}, "a convolution's factors for the shape"),
    ("tucker", {"shape": [6, 5, 3], "ranks": [6, 2]}, "rank 6"),
    ("tucker", {"shape": [6, 5, 3], "ranks": [2, 7]}, "rank 7"),
    ("tucker", {"shape": [6, 5, 3], "ranks": [0, 2]}, "rank 0"),
    ("tucker", {"shape": [6, 5, 3], "ranks": [2]}, "ranks"),
    ("tucker", {"shape": [6, 5, 3], "ranks": "22"}, "ranks"),
    ("tucker", {"shape": [6, 5, 3], "rank": 2}, "with the options"),
    ("cp", {"shape": [6, 20], "rank": 2}, "a convolution's factors for the shape"),
    ("cp", {"shape": [6, 5, 3], "rank": 0}, "rank 0"),
    ("cp", {"shape": [6, 5, 3], "rank": 2.0}, "rank 2.0"),
])  # fmt: skip
def test_what_describes_no_chain_is_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StorageError, match=message):
        tensor_specs_of(kind, {"dtype": "float32", **options})


@pytest.mark.parametrize(("kind", "options"), [case for case in CODED if case[0] != "integers"])
def test_mask_takes_the_place_of_codes_that_are_not_kept(kind: str, options: Any) -> None:
    plain, found = (specs(kind, {**options, **more}) for more in ({}, {"kept": 30, "columns": True}))
    assert found == {
        **plain, "codes": ((1, packed_columns(30, options["bits"])), "uint8"), "mask": ((6, 3), "uint8"),
        "columns": ((1, 20), "float16"),
    }  # fmt: skip
    assert specs(kind, {**options, "kept": 0})["codes"] == ((1, 0), "uint8")
    for wrong in ({"kept": 121}, {"kept": -1}, {"kept": 3.0}, {"kept": True}):
        with pytest.raises(StorageError, match="kept"):
            tensor_specs_of(kind, {**options, **wrong})
    for filling in ({"rank": 2}, {"outliers": 5}, {"rotation": 4}):
        with pytest.raises(StorageError, match=f"a mask, which {next(iter(filling))} would fill in"):
            tensor_specs_of(kind, {**options, "kept": 30, **filling})


def test_whole_numbers_have_no_mask() -> None:
    with pytest.raises(StorageError, match="kept"):
        tensor_specs_of("integers", {**dict(CODED)["integers"], "kept": 30})


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_said_is_refused(kind: str) -> None:
    with pytest.raises(StorageError):
        tensor_specs_of(kind, {})
    if kind != "dense":
        with pytest.raises(StorageError):
            tensor_specs_of(kind, WEIGHT)


@pytest.mark.parametrize("kind", ["dense", "low_rank", "sparse"])
def test_only_codes_have_parts(kind: str) -> None:
    more = {"dense": {}, "low_rank": {"rank": 2, "embedding": False}, "sparse": {"kept": 3}}[kind]
    with pytest.raises(StorageError):
        tensor_specs_of(kind, {**WEIGHT, **more, "columns": True})

"""What is stored at a site, in words that a person can read: what the manifest lists.

`core/storage.py` says which options a kind of storage has; `describe_weight` and `describe_input` here say what they mean.

    {"path": "encoder.layer.0.query", "shape": [64, 64], "dtype": "float32", "kind": "quantized", "bytes": 2432,
     "weight": {"bits": 4, "group": 64, "grid": "positive", "zero_point": false, "scale_dtype": "float16"},
     "input": {"bits": 8, "mode": "static", "range": [-2.5, 3.1]}}

Without `weight` the numbers are plain ones of `dtype`; other fields that are not there say that there is no such thing. `group`
counts input columns, or is `channel` (a scale per row), `column` or `tensor`. `range` is that of the input as it is quantized, after its
columns were scaled where `scaled_columns` says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast

from trimodal.core.site import Site
from trimodal.core.storage import BASE, CODED, FLOATS, KINDS, LINKS

InputMode = Literal["static", "per token", "per sample"]
GRIDS = ("positive", "signed", "asymmetric", "nf", "sf", "fp", "pot", "log", "k-means", "whole numbers")
_MODES = ("static", "per token", "per sample")
_WORDS = ("channel", "column", "tensor")
_ZEROS = ("uint8", "int32", "float16")
_ALWAYS = ("path", "shape", "dtype", "kind", "bytes")


@dataclass(frozen=True)
class StoredWeight:
    """Which numbers a weight's codes stand for. `zero_point` is the type of the zero-points, or False where there are none;
    `scale_dtype` is None where a codebook's numbers need no scale."""

    bits: int
    group: int | str
    grid: str
    zero_point: str | Literal[False]
    scale_dtype: str | None


@dataclass(frozen=True)
class StoredInput:
    """How a layer's input is quantized; a `range` (lo, hi) is known beforehand only of a static one."""

    bits: int
    mode: InputMode
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Kept:
    """How many weights of all a mask keeps; `pattern` is `2:4` where of every four neighbours in a row two stay."""

    weights: int
    of: int
    pattern: str | None = None


@dataclass(frozen=True)
class StoredSite:
    """What is stored at one site.

    `kind` is that of `core/storage.py`, or `shared` where the weight is that of the layer at `shared_with`. `bytes` counts weight
    and bias. `rank` is that of the factors of which it is one (two numbers for Tucker factors of unequal ranks), and `factor_of`
    the path of the layer for which they stand. `tied` lists layers that use its weight too, `table_from` says whose table of
    numbers it uses. `outliers` counts weights kept in float16, `correction_rank` is that of a low-rank correction; with
    `rotated_columns` (the block's size) or `scaled_columns` the codes are those of a weight whose input was changed so.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    bytes: int
    weight: StoredWeight | None = None
    input: StoredInput | None = None
    rank: int | tuple[int, ...] | None = None
    kept: Kept | None = None
    factor_of: str | None = None
    tied: tuple[str, ...] = ()
    shared_with: str | None = None
    table_from: str | None = None
    outliers: int | None = None
    correction_rank: int | None = None
    rotated_columns: int | None = None
    scaled_columns: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data; of the fields that most sites have no use for only those that say something."""
        plain = asdict(self)
        return {name: plain[name] for f in fields(self) if (name := f.name) in _ALWAYS or plain[name] != f.default}

    @staticmethod
    def from_json(data: Any) -> StoredSite:
        """The inverse of `to_json`, for data from anybody.

        Raises:
            ValueError: it names what is wrong.
        """
        return _read_site(data)


def describe_weight(kind: str, options: Mapping[str, Any], table: str = "k-means") -> StoredWeight | None:
    """The grid of a weight kept as `kind` with `options`, None where its numbers are plain ones. `table` names a codebook's."""
    if kind == "integers":
        return StoredWeight(8, "column", "whole numbers", False, "float16")
    if kind not in ("quantized", "codebook"):
        return None
    whole = options["group"] >= math.prod(options["shape"][1:])
    group = "tensor" if options.get("shared") else "channel" if whole else options["group"]
    if kind == "codebook":
        return StoredWeight(options["bits"], group, table, False, "float16" if options["scaled"] else None)
    if options["zero"] is not None:
        return StoredWeight(options["bits"], group, "asymmetric", options["zero"], "float16")
    return StoredWeight(options["bits"], group, "positive" if options.get("positive") else "signed", False, "float16")


def describe_input(options: Mapping[str, Any], scale: float | None = None, zero: float | None = None) -> StoredInput | None:
    """How the input is quantized, None where it is not; `scale` and `zero` are those of a static range, None where a plan cannot
    know them yet."""
    how = options.get("inputs")
    if how is None:
        return None
    if how["mode"] != "static":
        return StoredInput(how["bits"], "per sample" if len(options["shape"]) > 2 else "per token")
    if scale is None or zero is None:
        return StoredInput(how["bits"], "static")
    return StoredInput(how["bits"], "static", (-zero * scale, (2 ** how["bits"] - 1 - zero) * scale))


def describe_parts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `StoredSite` for what is applied after decoding."""
    return {
        "outliers": options.get("outliers"), "correction_rank": options.get("rank"), "rotated_columns": options.get("rotation"),
        "scaled_columns": options.get("columns", False),
    }  # fmt: skip


def forecast_stored_site(site: Site) -> StoredSite:
    """What will be stored at a `site` as a plan leaves it, as far as its `storage` tells; ranges of inputs are not known yet."""
    known: dict[str, Any] = {"tied": site.tied}
    options = site.storage or {}
    if site.stored in CODED and options:
        known.update(weight=describe_weight(site.stored, options, options["table"]), input=describe_input(options))
        known.update(describe_parts(options))
    if "kept" in options:
        known["kept"] = Kept(options["kept"], math.prod(site.shape))
    path, _, link = site.path.rpartition(".")
    if link in (*LINKS, BASE):
        known["factor_of"] = path
    return StoredSite(site.path, site.shape, site.dtype, site.stored, site.stored_bytes, **known)


def _read_site(data: Any) -> StoredSite:
    if not isinstance(data, dict) or not isinstance(data.get("path"), str):
        raise ValueError(f"of what is stored {data!r:.60} names no path")
    where, known = f"{data['path']:.80}", {f.name for f in fields(StoredSite)}
    if wrong := (data.keys() - known) | (set(_ALWAYS) - data.keys()):
        raise ValueError(f"{where}: {min(map(str, wrong)):.40} is missing or unknown")
    _expect(where, "shape", data["shape"], isinstance(data["shape"], list) and all(_is_count(n) for n in data["shape"]))
    _expect(where, "dtype", data["dtype"], data["dtype"] in FLOATS)
    _expect(where, "kind", data["kind"], isinstance(data["kind"], str) and data["kind"] in (*KINDS, "shared"))
    _expect(where, "bytes", data["bytes"], _is_count(data["bytes"]))
    rank: Any = data.get("rank")
    tied = data.get("tied", [])
    listed = isinstance(rank, list) and bool(rank) and all(_is_count(r) for r in rank)
    _expect(where, "rank", rank, rank is None or _is_count(rank) or listed)
    _expect(where, "tied", tied, isinstance(tied, list) and all(isinstance(path, str) for path in tied))
    for name in ("factor_of", "shared_with", "table_from"):
        _expect(where, name, data.get(name), data.get(name) is None or isinstance(data[name], str))
    for name in ("outliers", "correction_rank", "rotated_columns"):
        _expect(where, name, data.get(name), data.get(name) is None or _is_count(data[name]))
    _expect(where, "scaled_columns", data.get("scaled_columns", False), type(data.get("scaled_columns", False)) is bool)
    made = {
        "shape": tuple(data["shape"]), "tied": tuple(tied), "rank": tuple(rank) if listed else rank,
        "weight": _read_weight(where, data.get("weight")), "input": _read_input(where, data.get("input")),
        "kept": _read_kept(where, data.get("kept")),
    }  # fmt: skip
    return StoredSite(**{**data, **made})


def _read_weight(where: str, data: Any) -> StoredWeight | None:
    if data is None:
        return None
    _expect_keys(where, "weight", data, StoredWeight)
    _expect(where, "weight.bits", data["bits"], _is_count(data["bits"]) and 1 <= data["bits"] <= 16)
    group = data["group"]
    _expect(where, "weight.group", group, group in _WORDS if isinstance(group, str) else _is_count(group) and group > 0)
    _expect(where, "weight.grid", data["grid"], isinstance(data["grid"], str) and data["grid"] in GRIDS)
    zero = data["zero_point"]
    _expect(where, "weight.zero_point", zero, zero is False or (isinstance(zero, str) and zero in _ZEROS))
    _expect(where, "weight.scale_dtype", data["scale_dtype"], data["scale_dtype"] in (None, "float16"))
    return StoredWeight(**data)


def _read_input(where: str, data: Any) -> StoredInput | None:
    if data is None:
        return None
    _expect_keys(where, "input", data, StoredInput)
    _expect(where, "input.bits", data["bits"], _is_count(data["bits"]) and 4 <= data["bits"] <= 8)
    _expect(where, "input.mode", data["mode"], isinstance(data["mode"], str) and data["mode"] in _MODES)
    ends = data["range"]
    pair = isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)
    _expect(where, "input.range", ends, pair and ends[0] <= 0 <= ends[1] if data["mode"] == "static" else ends is None)
    return StoredInput(data["bits"], cast("InputMode", data["mode"]), None if ends is None else (float(ends[0]), float(ends[1])))


def _read_kept(where: str, data: Any) -> Kept | None:
    if data is None:
        return None
    _expect_keys(where, "kept", data, Kept)
    counts = _is_count(data["weights"]) and _is_count(data["of"]) and data["weights"] <= data["of"]
    _expect(where, "kept", data, counts and (data["pattern"] is None or isinstance(data["pattern"], str)))
    return Kept(**data)


def _expect_keys(where: str, name: str, data: Any, kind: type[StoredWeight] | type[StoredInput] | type[Kept]) -> None:
    _expect(where, name, data, isinstance(data, dict) and data.keys() == {f.name for f in fields(kind)})


def _expect(where: str, name: str, value: Any, right: bool) -> None:
    if not right:
        raise ValueError(f"{where}: {name} is {value!r:.60}")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0

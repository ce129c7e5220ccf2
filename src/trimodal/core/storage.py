"""How a weight may be kept: from a kind and its options follows exactly which tensors there are.

This is said once, here, and used four times: planning adds up the bytes, solving fills the tensors, a saved model is
rebuilt with empty ones, and what a file from elsewhere claims is checked against it. A weight of shape out × in (a
convolution's kernel flattened into the columns) is `rows` × `columns`.

    dense       weight
    low_rank    first, second
    tucker      first, second, third: two factors around a smaller kernel; a convolution's
    cp          first, second, third and for an image's kernel fourth: per dimension of the kernel one depthwise
                factor between two others; a convolution's
    residual    first, second, base: two factors beside a whole weight, which others may use too
    sparse      values (kept,), mask: one bit per weight
    quantized   codes and scale per group of columns, with `zero` a zero-point too; see `maths/grid.py`
    codebook    codes, levels: one or many tables, or none where those of another layer are used; with `scaled` a scale
                per group too; see `maths/codebook.py`
    integers    codes, whole numbers without bounds, and one step per column; see `maths/integers.py`

The kinds with a `first` make a chain of plain layers, one per tensor; in `residual` the base stands beside the chain. The
last three may carry *parts*, applied in this order after decoding (`Ŵ` stands for what the codes decode to):

    signs       Ŵ ← (Ŵ H) · signs: undo a rotation of the input (one bit per column; H: blocks of `rotation` columns)
    columns     Ŵ ← Ŵ · columns: undo a scaling of the input
    left, right Ŵ ← Ŵ + left right: a low-rank correction
    outliers    Ŵ[places] ← outliers: single weights kept in float16

The first two may keep a *mask*, `kept`: only so many weights have a code, one after the other in a single row, and
`mask` says with one bit per weight which; all others are exactly zero, whatever the levels are. Of the parts only
`columns` and `inputs` go with it, which leave zeros alone.

and may say how the layer's *input* is quantized, `inputs`: to how many bits, and whether with one range for all that
comes (`static`: input_scale, input_zero) or with one that each token brings along (`token`). The input is multiplied by
`columns` before it is quantized.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FACTORED = ("low_rank", "tucker", "cp", "residual")
KINDS = ("dense", *FACTORED, "sparse", "quantized", "codebook", "integers")
LINKS = ("first", "second", "third", "fourth")
BASE = "base"
CODED = ("quantized", "codebook", "integers")
TYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "int8": 1, "int32": 4}
FLOATS = ("float64", "float32", "float16", "bfloat16")
_LARGEST_EXPONENT = 1000
_MOST_BITS = 16
_PARTS = {"rotation", "columns", "rank", "outliers", "inputs", "kept"}
_FILLING = {"rotation", "rank", "outliers"}


class StorageError(ValueError):
    """Options that do not describe any storage; the text says why."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape and type of one stored tensor."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Bytes it takes."""
        return math.prod(self.shape) * TYPE_BYTES[self.dtype]


def packed_columns(columns: int, bits: int) -> int:
    """Bytes that a row of `columns` codes of `bits` bits takes: eight codes take exactly `bits` bytes."""
    return -(-columns // 8) * bits


def group_size(group: int | str, columns: int) -> int:
    """Columns per group for the option `group`: a number, `channel` or `tensor` (both: the whole row)."""
    return min(group, columns) if isinstance(group, int) else columns


def tensor_specs_of(kind: str, options: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """The tensors that a weight kept as `kind` with `options` consists of.

    Every kind has `shape`, the weight's own, and `dtype`, its type when decoded. Further: `low_rank` has `rank` and
    `embedding`; `tucker` has `ranks`, of the input and of the output; `cp` and `residual` have `rank`; `sparse` has `kept`; `quantized`
    has `bits`, `group` (columns), `exponent`, `zero` (None, uint8, int32 or float16), `shared` (one scale in all) and, where no scale
    is below 0 and there is no zero-point, `positive`: True;
    `codebook` has `bits`, `group`, `exponent`, `tables` (`tensor`, `channel` or `group`; `tower`: one, which other layers
    use too, and `borrowed`: none, since another's is used) and `scaled`; `integers` has `exponent`. Parts are there if
    their option is: `rotation`, `columns`, `rank`, `outliers`, `inputs` ({"bits": 4 to 8, "mode": "static" or "token"});
    with `kept` there is a mask.

    Raises:
        StorageError: the options are not those of the kind.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise StorageError(f"the kind of storage {kind!r:.40}")
    shape, dtype = _read_shape_and_dtype(options)
    rows, columns = shape[0], math.prod(shape[1:])
    keys = set(options) - {"shape", "dtype"} - (_PARTS if kind in CODED else set())
    if kind == "dense":
        _check_keys(kind, keys, set())
        return {"weight": TensorSpec(shape, dtype)}
    if kind == "low_rank":
        _check_keys(kind, keys, {"rank", "embedding"})
        return _low_rank_specs(options, shape, dtype)
    if kind == "tucker":
        _check_keys(kind, keys, {"ranks"})
        return _tucker_specs(options, shape, dtype)
    if kind == "cp":
        _check_keys(kind, keys, {"rank"})
        return _cp_specs(options, shape, dtype)
    if kind == "residual":
        _check_keys(kind, keys, {"rank"})
        return _residual_specs(options, shape, dtype)
    if kind == "sparse":
        _check_keys(kind, keys, {"kept"})
        kept = _read_integer(options, "kept", 0, rows * columns)
        return {
            "values": TensorSpec((kept,), dtype),
            "mask": TensorSpec((rows, packed_columns(columns, 1)), "uint8"),
        }
    coded = {"quantized": _quantized_specs, "codebook": _codebook_specs, "integers": _integer_specs}
    return {**coded[kind](options, keys, rows, columns), **_part_specs(options, rows, columns)}


def stored_bytes(kind: str, options: Mapping[str, Any]) -> int:
    """Bytes of all tensors that `tensor_specs_of` names."""
    return sum(spec.bytes for spec in tensor_specs_of(kind, options).values())


def _low_rank_specs(options: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> dict[str, TensorSpec]:
    rank = _read_integer(options, "rank", 1)
    if type(options["embedding"]) is not bool or (options["embedding"] and len(shape) != 2):
        raise StorageError(f"low rank of an embedding {options['embedding']!r:.20} of shape {list(shape)}")
    if options["embedding"]:
        return {"first": TensorSpec((shape[0], rank), dtype), "second": TensorSpec((shape[1], rank), dtype)}
    ones = tuple(1 for _ in shape[2:])
    return {"first": TensorSpec((rank, *shape[1:]), dtype), "second": TensorSpec((shape[0], rank, *ones), dtype)}


def _tucker_specs(options: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> dict[str, TensorSpec]:
    ones, ranks = _point_kernel(shape), options["ranks"]
    if not isinstance(ranks, list | tuple) or len(ranks) != 2:
        raise StorageError(f"ranks {ranks!r:.40}")
    inner, outer = (_read_integer({"rank": r}, "rank", 1, most) for r, most in zip(ranks, (shape[1], shape[0]), strict=True))
    shapes = (inner, shape[1], *ones), (outer, inner, *shape[2:]), (shape[0], outer, *ones)
    return {name: TensorSpec(found, dtype) for name, found in zip(LINKS, shapes, strict=False)}


def _cp_specs(options: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> dict[str, TensorSpec]:
    ones, rank = _point_kernel(shape), _read_integer(options, "rank", 1)
    along = [(rank, 1, *ones[:at], length, *ones[at + 1 :]) for at, length in enumerate(shape[2:])]
    shapes = (rank, shape[1], *ones), *along, (shape[0], rank, *ones)
    return {name: TensorSpec(found, dtype) for name, found in zip(LINKS, shapes, strict=False)}


def _residual_specs(options: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> dict[str, TensorSpec]:
    if len(shape) != 2:
        raise StorageError(f"a residual beside a weight of the shape {list(shape)}")
    rank = _read_integer(options, "rank", 1, min(shape))
    return {
        "first": TensorSpec((rank, shape[1]), dtype),
        "second": TensorSpec((shape[0], rank), dtype),
        BASE: TensorSpec(shape, dtype),
    }


def _point_kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The kernel of a 1 × 1 convolution beside one with a weight of `shape`."""
    if len(shape) not in (3, 4):
        raise StorageError(f"a convolution's factors for the shape {list(shape)}")
    return tuple(1 for _ in shape[2:])


def _quantized_specs(options: Mapping[str, Any], keys: set[str], rows: int, columns: int) -> dict[str, TensorSpec]:
    _check_keys("quantized", keys - {"positive"}, {"bits", "group", "exponent", "zero", "shared"})
    bits, group = _read_integer(options, "bits", 1, _MOST_BITS), _read_integer(options, "group", 1)
    _check_exponent(options)
    if options["zero"] not in (None, "uint8", "int32", "float16") or type(options["shared"]) is not bool:
        raise StorageError(f"zero-points of {options['zero']!r:.20}, shared {options['shared']!r:.20}")
    if "positive" in options and (options["positive"] is not True or options["zero"] is not None):
        raise StorageError(f"positive {options['positive']!r:.20} with zero-points of {options['zero']!r:.20}")
    scales = (1 if options["shared"] else rows, -(-columns // group))
    found = {**_code_specs(options, rows, columns, bits), "scale": TensorSpec(scales, "float16")}
    if options["zero"] is not None:
        found["zero"] = TensorSpec(scales, options["zero"])
    return found


def _codebook_specs(options: Mapping[str, Any], keys: set[str], rows: int, columns: int) -> dict[str, TensorSpec]:
    _check_keys("codebook", keys, {"bits", "group", "exponent", "tables", "scaled"})
    bits, group = _read_integer(options, "bits", 1, 8), _read_integer(options, "group", 1)
    _check_exponent(options)
    groups = -(-columns // group)
    tables = {"tensor": 1, "channel": rows, "group": rows * groups, "tower": 1, "borrowed": 0}
    if options["tables"] not in tuple(tables) or type(options["scaled"]) is not bool:
        raise StorageError(f"tables per {options['tables']!r:.20}, scaled {options['scaled']!r:.20}")
    found = _code_specs(options, rows, columns, bits)
    if count := tables[options["tables"]]:
        found["levels"] = TensorSpec((count, 2**bits), "float16")
    if options["scaled"]:
        found["scale"] = TensorSpec((rows, groups), "float16")
    return found


def _code_specs(options: Mapping[str, Any], rows: int, columns: int, bits: int) -> dict[str, TensorSpec]:
    if "kept" not in options:
        return {"codes": TensorSpec((rows, packed_columns(columns, bits)), "uint8")}
    kept = _read_integer(options, "kept", 0, rows * columns)
    if filling := sorted(_FILLING & options.keys()):
        raise StorageError(f"a mask, which {filling[0]} would fill in")
    return {
        "codes": TensorSpec((1, packed_columns(kept, bits)), "uint8"),
        "mask": TensorSpec((rows, packed_columns(columns, 1)), "uint8"),
    }


def _integer_specs(options: Mapping[str, Any], keys: set[str], rows: int, columns: int) -> dict[str, TensorSpec]:
    _check_keys("integers", keys | ({"kept"} & options.keys()), {"exponent"})
    _check_exponent(options)
    return {"codes": TensorSpec((rows, columns), "int8"), "scale": TensorSpec((1, columns), "float16")}


def _part_specs(options: Mapping[str, Any], rows: int, columns: int) -> dict[str, TensorSpec]:
    found = {}
    if "rotation" in options:
        block = _read_integer(options, "rotation", 2, columns)
        if columns % block or block & (block - 1):
            raise StorageError(f"a rotation in blocks of {block} of {columns} columns")
        found["signs"] = TensorSpec((1, packed_columns(columns, 1)), "uint8")
    if "columns" in options:
        if options["columns"] is not True:
            raise StorageError(f"a scaling of columns {options['columns']!r:.20}")
        found["columns"] = TensorSpec((1, columns), "float16")
    if "rank" in options:
        rank = _read_integer(options, "rank", 1, min(rows, columns))
        found["left"], found["right"] = TensorSpec((rows, rank), "float16"), TensorSpec((rank, columns), "float16")
    if "outliers" in options:
        count = _read_integer(options, "outliers", 0, rows * columns)
        found["outliers"], found["places"] = TensorSpec((count,), "float16"), TensorSpec((count,), "int32")
    if "inputs" in options:
        found.update(_input_specs(options["inputs"]))
    return found


def _input_specs(how: Any) -> dict[str, TensorSpec]:
    if not isinstance(how, Mapping) or how.keys() != {"bits", "mode"} or how["mode"] not in ("static", "token"):
        raise StorageError(f"inputs quantized as {how!r:.60}")
    _read_integer(how, "bits", 4, 8)
    if how["mode"] == "token":
        return {}
    return {"input_scale": TensorSpec((1, 1), "float32"), "input_zero": TensorSpec((1, 1), "uint8")}


def _read_shape_and_dtype(options: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    shape, dtype = options.get("shape"), options.get("dtype")
    if not isinstance(shape, list | tuple) or not shape or not all(type(n) is int and n >= 0 for n in shape):
        raise StorageError(f"the shape {shape!r:.40}")
    if dtype not in FLOATS:
        raise StorageError(f"the type {dtype!r:.40}")
    return tuple(shape), str(dtype)


def _check_keys(kind: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise StorageError(f"{kind} with the options {', '.join(sorted(map(str, found)))[:80] or 'none'}")


def _read_integer(options: Mapping[str, Any], name: str, low: int, high: int | None = None) -> int:
    value = options[name]
    if type(value) is not int or value < low or (high is not None and value > high):
        raise StorageError(f"{name} {value!r:.20}")
    return value


def _check_exponent(options: Mapping[str, Any]) -> None:
    value = options["exponent"]
    if type(value) is not int or abs(value) > _LARGEST_EXPONENT:
        raise StorageError(f"an exponent of {value!r:.20}")

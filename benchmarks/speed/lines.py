"""What has to hold of the tables, fixed before they are measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.passlines import PassLine
from benchmarks.speed.one import name_ours
from benchmarks.speed.ours import INT8, SMALLER, WEIGHTS
from benchmarks.speed.peers import FLOATS, NNCF, TORCH

LEAST_OF_BEST, LEAST_OF_NNCF, LEAST_SMALLER = 1.0, 0.95, 2.0
REAL_COSINE, REAL_SPEED, WEIGHTS_COSINE = 0.998, 2.5, 0.9995
CLOSE = 0.0005  # cosines that differ by less count as equal, so that no peer is left out for a rounding error

Rows = Mapping[str, Mapping[str, Any]]


def lines_of(where: str, rows: Rows, integer_products: bool) -> Iterable[PassLine | str]:
    """The lines of one table; a line that cannot be tried here is a sentence."""
    best = fastest(row for name, row in rows.items() if name.startswith(f"ours {INT8},"))
    if best is None:
        return
    peers = [row for name, row in rows.items() if not name.startswith("ours") and competes(row, best)]
    rival = fastest(peers)
    if rival is not None:
        name = f"{where}: ours int8 over the best peer that is not more faithful, times as fast"
        yield PassLine(name, rival["ms"] / best["ms"], least=LEAST_OF_BEST)
    nncf, ours = rows.get(NNCF), rows.get(name_ours(INT8, "openvino"))
    if nncf and ours and integer_products:
        yield PassLine(f"{where}: ours over NNCF's, both in OpenVINO, times as fast", nncf["ms"] / ours["ms"], least=LEAST_OF_NNCF)
    elif nncf and ours:
        yield f"not run (no VNNI) {where}: ours over NNCF's, both in OpenVINO: {nncf['ms'] / ours['ms']:.3g}"
    small = fastest(row for name, row in rows.items() if any(name.startswith(f"ours {kind},") for kind in SMALLER))
    if small is not None and nncf:
        name = f"{where}: int8 with structure, tokens or both over NNCF's dense int8, times as fast"
        yield PassLine(name, nncf["ms"] / small["ms"], least=LEAST_SMALLER)


def real_lines_of(where: str, rows: Rows) -> Iterable[PassLine]:
    """Those of the model with real weights, in ONNX Runtime. That of weights alone is of a session in which nothing else is rounded."""
    for kind, exact, least in ((INT8, False, REAL_COSINE), (WEIGHTS, True, WEIGHTS_COSINE)):
        row = rows.get(name_ours(kind, "onnxruntime", exact))
        if row is not None:
            said = f"{where}: {name_ours(kind, 'onnxruntime', exact)}, mean cosine"
            yield PassLine(said, row["cosine"], least=least)
    row = rows.get(name_ours(INT8, "onnxruntime"))
    if row is not None:
        name = f"{where}: ours int8 in ONNX Runtime over torch fp32, times as fast"
        yield PassLine(name, rows[TORCH]["ms"] / row["ms"], least=REAL_SPEED)


def competes(row: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a peer is no more faithful than ours."""
    return row["cosine"] is not None and ours["cosine"] is not None and row["cosine"] <= ours["cosine"] + CLOSE


def fastest(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row with the least time."""
    return min(rows, key=lambda row: float(row["ms"]), default=None)


def is_float(name: str) -> bool:
    """Whether a row computes in float32 throughout."""
    return name in FLOATS

"""What runs exported files: one file per runtime, each a `Session` that takes and gives arrays by name. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from trimodal.runtimes.onnxruntime import open_onnxruntime
from trimodal.runtimes.openvino import open_openvino
from trimodal.runtimes.session import Session

RUNTIMES: Mapping[str, Callable[[Path, int], Session]] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}
"""By name: (file, threads) -> session."""

__all__ = ["RUNTIMES", "Session"]

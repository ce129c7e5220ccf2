"""What runs exported files: one file per runtime, each a `Session` that takes and gives arrays by name. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping

from trimodal.runtimes.onnxruntime import open_onnxruntime
from trimodal.runtimes.openvino import open_openvino
from trimodal.runtimes.session import Opener, Session

RUNTIMES: Mapping[str, Opener] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}
"""By name: (file, threads, exact) -> session."""

__all__ = ["RUNTIMES", "Session"]

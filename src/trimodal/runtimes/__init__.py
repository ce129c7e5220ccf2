"""What runs exported files: one file per runtime, each a `Session` that takes and gives arrays by name. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping

from trimodal.runtimes.executorch import open_executorch
from trimodal.runtimes.litert import open_litert
from trimodal.runtimes.onnxruntime import open_onnxruntime
from trimodal.runtimes.openvino import open_openvino
from trimodal.runtimes.session import Opener, Session

RUNTIMES: Mapping[str, Opener] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "litert": open_litert,
    "executorch": open_executorch,
}
"""By name: (file, threads, exact) -> session."""

__all__ = ["RUNTIMES", "Session"]

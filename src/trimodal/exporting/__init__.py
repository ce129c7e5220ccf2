"""From an artifact to what other programs run: one file per format, one line each in the table below.

`export.py` is the verb: it takes the codes off the model, hands it to the format, checks that no tower was dropped, and has what was
written tried in a fresh process.
"""

from __future__ import annotations

from collections.abc import Mapping

from trimodal.exporting import archive, compressed_tensors, executorch, litert, onnx, openvino
from trimodal.exporting.exporter import Exporter, ExportResult, ExportSource

EXPORTERS: Mapping[str, Exporter] = {
    exporter.name: exporter
    for exporter in (
        onnx.EXPORTER,
        openvino.EXPORTER,
        compressed_tensors.EXPORTER,
        archive.EXPORTER,
        litert.EXPORTER,
        executorch.EXPORTER,
    )
}  # fmt: skip

__all__ = ["EXPORTERS", "ExportResult", "ExportSource", "Exporter"]

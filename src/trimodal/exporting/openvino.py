"""OpenVINO: the same graph as for ONNX, codes and all, in OpenVINO's own two files per component.

    DIR/config.json, tokenizer.json, …      what other loaders need
    DIR/openvino_model.xml, .bin            the names that Optimum Intel looks for; openvino_text_model.xml and so on for parts

OpenVINO's reader turns QuantizeLinear and DequantizeLinear into the quantization that its integer kernels know; the codes stay bytes on
disk, and floats stay float32.
"""

from __future__ import annotations

from pathlib import Path

from trimodal.errors import ModelError
from trimodal.exporting.exporter import ExportedComponent, Exporter, ExportResult, ExportSource
from trimodal.exporting.onnx import build_graph, gather_result, save_graph
from trimodal.writing import open_scratch_folder


def write_openvino(source: ExportSource, folder: Path) -> ExportResult:
    """Write every component of `source` into `folder`.

    Raises:
        ModelError: a component cannot be traced, or OpenVINO does not read its graph.
    """
    made, written = [], []
    for component in source.components:
        graph, codes = build_graph(component, source, integer_scores=True)
        with open_scratch_folder("the ONNX form of an OpenVINO model") as scratch:
            known = save_graph(graph, component.name, scratch / f"{component.name}.onnx", scratch)
            files = _convert(scratch / f"{component.name}.onnx", folder / f"openvino_{component.name}.xml")
        written.append(codes)
        made.append(ExportedComponent(known.name, files, known.inputs, known.outputs, known.nodes, known.changes))
    return gather_result(made, written)


def _convert(onnx_file: Path, file: Path) -> tuple[str, str]:
    import openvino

    try:
        model = openvino.Core().read_model(onnx_file)
        openvino.save_model(model, file, compress_to_fp16=False)
    except RuntimeError as failed:
        raise ModelError(f"OpenVINO does not read the graph of {onnx_file.stem}: {str(failed).strip().splitlines()[-1][:300]}") from failed
    return file.name, file.with_suffix(".bin").name


EXPORTER = Exporter(
    "openvino", "OpenVINO on Intel and other x86 processors: integer kernels where there is VNNI", ("onnx", "onnxscript", "openvino"),
    "openvino", write_openvino, target="openvino", runtime="openvino",
)  # fmt: skip

"""ONNX: one graph per component with our codes in it, in a folder as Transformers.js and Optimum expect it.

    DIR/config.json, tokenizer.json, …      what other loaders need, without our own keys
    DIR/onnx/model_quantized.onnx           or model_q4.onnx, vision_model_quantized.onnx, … ; model.onnx where nothing is coded

Standard operators of opset 21 only. A file above 2 GB, which protobuf does not hold, has its tensors beside it in NAME.onnx_data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from trimodal.exporting.component import Component
from trimodal.exporting.exporter import ExportedComponent, Exporter, ExportResult, ExportSource
from trimodal.exporting.flat_processors import write_flat_processor
from trimodal.exporting.map_grids import find_map_makers
from trimodal.exporting.onnx_graph.byte_maps import find_byte_maps, quantize_maps_
from trimodal.exporting.onnx_graph.coded_weights import WrittenCodes, write_codes_
from trimodal.exporting.onnx_graph.float_graph import initializer_names, trace_component
from trimodal.exporting.onnx_graph.integer_biases import code_biases_
from trimodal.exporting.onnx_graph.score_products import quantize_scores_
from trimodal.exporting.onnx_graph.tidy import tidy_graph_

FOLDER = "onnx"
SINGLE_FILE_BYTES = 1_900_000_000
_PRODUCER, _CHANGES = "trimodal", "trimodal.changes"


def write_onnx(source: ExportSource, folder: Path) -> ExportResult:
    """Write every component of `source` into `folder`/onnx.

    Raises:
        ModelError: a component cannot be traced.
    """
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    write_flat_processor(folder)
    made, written = [], []
    for component in source.components:
        graph, codes = build_graph(component, source)
        written.append(codes)
        made.append(save_graph(graph, component.name, place / f"{component.name}{name_precision(source)}.onnx", folder))
    return gather_result(made, written)


def build_graph(
    component: Component, source: ExportSource, integer_scores: bool = False, tidy: bool = True
) -> tuple[ir.Model, WrittenCodes]:
    """The component's graph with the codes in it, tidied, and what became of the codes; with `integer_scores`, as OpenVINO computes,
    all convolutions are of integers, else those whose sums become bytes, and so is attention's first product where ranges are known.
    Without `tidy` it is left as it was traced.

    Raises:
        ModelError: it cannot be traced.
    """
    graph = trace_component(component)
    names, layers = initializer_names(component), list(source.layers.values())
    maps = find_byte_maps(graph.graph, names, layers, find_map_makers(component.module).keys(), source.output_ranges)
    codes = write_codes_(graph, names, layers, source.unsigned, None if integer_scores else maps.layers)
    quantize_maps_(graph.graph, maps)
    codes.maps = maps.made
    if not integer_scores:
        code_biases_(graph.graph)
    else:
        quantize_scores_(graph, {path: source.output_ranges[path] for path in source.output_ranges.keys() & source.static_layers})
    if tidy:
        graph.meta[_CHANGES] = tidy_graph_(graph)
    graph.producer_name = _PRODUCER
    return graph, codes


def name_precision(source: ExportSource) -> str:
    """What follows a file's name, as Transformers.js has it: `_quantized` for 8 bits, `_q4` for 4 and fewer, nothing for floats."""
    bits = source.count_bits()
    return "" if not bits else "_q4" if bits <= 4 else "_quantized"


def save_graph(graph: ir.Model, name: str, file: Path, root: Path) -> ExportedComponent:
    """Write `graph` into `file`, with its tensors beside it if they are many."""
    common.ClearMetadataAndDocStringPass()(graph)
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    beside = f"{file.name}_data" if size > SINGLE_FILE_BYTES else None
    ir.save(graph, file, external_data=beside)
    files = [file] if beside is None else [file, file.with_name(beside)]
    return ExportedComponent(
        name, tuple(path.relative_to(root).as_posix() for path in files), _shapes_of(graph.graph.inputs), _shapes_of(graph.graph.outputs),
        len(list(graph.graph)), graph.meta.get(_CHANGES, ()),
    )  # fmt: skip


def gather_result(made: Sequence[ExportedComponent], written: Sequence[WrittenCodes]) -> ExportResult:
    """One result of all components: a layer that several have is coded where any has it so."""
    coded = frozenset().union(*(codes.coded for codes in written))
    decoded = {path: why for codes in written for path, why in codes.decoded.items() if path not in coded}
    float_inputs = {path: why for codes in written for path, why in codes.float_inputs.items()}
    parameters = frozenset().union(*(codes.parameters for codes in written))
    maps = {part.name: codes.maps for part, codes in zip(made, written, strict=True) if codes.maps}
    return ExportResult(tuple(made), coded, decoded, float_inputs, parameters, maps=maps)


def _shapes_of(values: Sequence[ir.Value]) -> dict[str, list[int | str]]:
    return {
        str(value.name): [n if isinstance(n, int) else str(n.value) for n in (value.shape or ())] for value in values
    }  # fmt: skip


EXPORTER = Exporter(
    "onnx", "ONNX Runtime, Transformers.js, Optimum, OpenVINO: standard operators, integer kernels", ("onnx", "onnxscript", "onnxruntime"),
    "onnx", write_onnx, target="onnxruntime", runtime="onnxruntime",
)  # fmt: skip

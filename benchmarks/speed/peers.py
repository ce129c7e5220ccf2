"""What other tools make of a model, each as a function of arrays by name. Runs in the environment `runtimes` of `benchmarks.peers`.

All begin with the same module, or with the same float graph: torch and torchao with the module, ONNX Runtime and NNCF with the ONNX file
that we export from it without any code. Each is set up as its own documentation has it for the CPU.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from trimodal.exporting.component import Component

Arrays = Mapping[str, Any]
Run = Callable[[Arrays], Arrays]
TORCH, COMPILED, TORCHAO = "torch fp32", "torch.compile fp32", "torchao int8 dynamic + torch.compile"
ORT, ORT_DYNAMIC, ORT_STATIC = "ONNX Runtime fp32", "ONNX Runtime int8 dynamic", "ONNX Runtime int8 static"
OPENVINO, NNCF = "OpenVINO fp32", "OpenVINO + NNCF int8"
FLOATS = (TORCH, COMPILED, ORT, OPENVINO)


def run_module(component: Component, module: Any) -> Run:
    """`module`, which takes the component's inputs in order and returns its outputs in order."""
    import torch

    def run(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            found = module(*(torch.from_numpy(inputs[name]) for name in component.inputs))
        return {name: value.numpy() for name, value in zip(component.outputs, found, strict=True)}

    return run


def make_torch_peers(component: Component, quantized: bool) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Eager and compiled floats; torchao's int8 weights with inputs per token, compiled, as its page on quantization has it."""
    import torch

    from trimodal.exporting.component import ComponentModule

    def compile_module(module: Any) -> Run:
        torch._dynamo.reset()
        return run_module(component, torch.compile(module, dynamic=False))

    def quantize() -> Run:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        module = copy.deepcopy(ComponentModule(component))
        quantize_(module, Int8DynamicActivationInt8WeightConfig())
        return compile_module(module)

    yield TORCH, lambda: run_module(component, ComponentModule(component))
    yield COMPILED, lambda: compile_module(ComponentModule(component))
    if quantized:
        yield TORCHAO, quantize


def make_graph_peers(
    file: Path, calibration: Arrays, transformer: bool, threads: int, scratch: Path
) -> Iterator[tuple[str, Callable[[], Run]]]:
    """ONNX Runtime and OpenVINO on the float graph, and what their own tools make of it."""
    yield ORT, lambda: open_file("onnxruntime", file, threads)
    yield ORT_DYNAMIC, lambda: open_file("onnxruntime", quantize_dynamic(file, scratch), threads)
    yield ORT_STATIC, lambda: open_file("onnxruntime", quantize_static(file, calibration, transformer, scratch), threads)
    yield OPENVINO, lambda: open_file("openvino", file, threads)
    yield NNCF, lambda: open_file("openvino", quantize_nncf(file, calibration, transformer, scratch), threads)


def open_file(runtime: str, file: Path, threads: int) -> Run:
    """A file in a runtime."""
    from trimodal.runtimes import RUNTIMES

    return RUNTIMES[runtime](file, threads).run


def quantize_dynamic(file: Path, scratch: Path) -> Path:
    """Weights per channel, ranges of inputs while it runs."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    quantize(without_shapes(file, scratch), scratch / "dynamic.onnx", per_channel=True, weight_type=QuantType.QInt8)
    return scratch / "dynamic.onnx"


def quantize_static(file: Path, calibration: Arrays, transformer: bool, scratch: Path) -> Path:
    """QDQ with min-max ranges, unsigned inputs and weights per channel; in transformers the layers' products, else everything."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(list(split_samples(calibration)))

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    quantize(
        without_shapes(file, scratch), scratch / "static.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"] if transformer else None,
    )  # fmt: skip
    return scratch / "static.onnx"


def without_shapes(file: Path, scratch: Path) -> Path:
    """The float file without the exporter's notes on shapes, over which ONNX Runtime's quantizer stumbles."""
    import onnx

    graph = onnx.load(file)
    del graph.graph.value_info[:]
    onnx.save(graph, scratch / "plain.onnx")
    return scratch / "plain.onnx"


def quantize_nncf(file: Path, calibration: Arrays, transformer: bool, scratch: Path) -> Path:
    """Post-training quantization with NNCF's settings for transformers (smoothing, bias correction, mixed preset), or its own."""
    import nncf
    import openvino

    model = openvino.Core().read_model(file)
    options: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER, "preset": nncf.QuantizationPreset.MIXED} if transformer else {}
    samples = list(split_samples(calibration))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples), **options)
    openvino.save_model(made, scratch / "nncf.xml", compress_to_fp16=False)
    return scratch / "nncf.xml"


def split_samples(arrays: Arrays) -> Iterator[dict[str, Any]]:
    """One sample after the other, (1, …) each, a text without its padding."""
    mask = arrays.get("attention_mask")
    for row in range(len(next(iter(arrays.values())))):
        length = None if mask is None else int(mask[row].sum())
        yield {
            name: np.ascontiguousarray(value[row : row + 1, :length] if value.ndim == 2 else value[row : row + 1])
            for name, value in arrays.items()
        }  # fmt: skip

"""OpenVINO on the CPU: reads `.onnx` and its own `.xml`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import InputError, IntegrityError
from trimodal.runtimes.session import Arrays, RunError, cast_inputs, describe_refusal

_TYPES = {
    "f32": "float32", "f16": "float16", "f64": "float64", "i64": "int64", "i32": "int32", "boolean": "bool", "u8": "uint8", "i8": "int8",
}  # fmt: skip
_PRODUCTS = (
    "FullyConnected", "MatMul", "Convolution", "Deconvolution", "GroupConvolution", "RNNSeq", "RNNCell", "MHA", "QKVProjection", "LLMMLP",
)  # fmt: skip
_LENGTH = 2
"""How long a length that may vary is in the inference that only brings the types of the execution graph to light."""


class OpenVinoSession:
    """A file opened in OpenVINO with `threads` threads: one stream, tuned for latency, float32 where nothing is coded.

    Without the hint for float32, OpenVINO computes float layers in bfloat16 where the processor has instructions for it, which
    rounds what nobody asked to be rounded. With `exact` it does not round the inputs of weights that are stored alone as integers
    either. The threads are not pinned: other work on the machine would wait for the same ones.
    """

    def __init__(self, file: Path, threads: int, exact: bool = False) -> None:
        runtime = _import_runtime()
        self._model = _compile(runtime, file, threads, exact)
        self._request = self._model.create_infer_request()
        types = {_name_of(port): port.element_type.get_type_name() for port in self._model.inputs}
        self.input_types: Mapping[str, str] = {name: _TYPES.get(kind, "float32") for name, kind in types.items()}
        self.input_names: Sequence[str] = list(self.input_types)
        self.output_names: Sequence[str] = [_name_of(port) for port in self._model.outputs]
        self._has_run = False

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays (batch, …) by name -> arrays (batch, …) by name.

        Raises:
            InputError: one is missing, or the runtime cannot compute with them.
        """
        try:
            self._request.infer(cast_inputs(inputs, self.input_types), share_inputs=True)
        except RuntimeError as failed:
            raise RunError(describe_refusal("OpenVINO", failed)) from failed
        self._has_run = True
        return {name: np.array(self._request.get_output_tensor(n).data) for n, name in enumerate(self.output_names)}

    def list_integer_nodes(self) -> Sequence[str]:
        """The products of the execution graph that take 8-bit integers, as `kind name`. Before the first inference a graph with lengths
        that may vary has no types yet, so one is made if there was none.

        Raises:
            InputError: the file runs with none of the lengths that were tried, so that it has to run once before.
        """
        if not self._has_run:
            self._run_once()
        return [f"{node['layerType']} {node['name']}" for node in self.list_nodes() if _is_integer(node)]

    def list_nodes(self) -> Sequence[Mapping[str, str]]:
        """Every node of the execution graph with what OpenVINO says of it (`layerType`, `runtimePrecision`, `primitiveType`, …)."""
        return [
            {"name": op.get_friendly_name(), **{key: str(value.value) for key, value in op.get_rt_info().items()}}
            for op in self._model.get_runtime_model().get_ordered_ops()
        ]  # fmt: skip

    def close(self) -> None:
        """Let go of memory and threads."""
        del self._request, self._model

    def _run_once(self) -> None:
        made = {_name_of(port): np.ones(_fix_lengths(port), self.input_types[_name_of(port)]) for port in self._model.inputs}
        try:
            self.run(made)
        except InputError as failed:
            raise InputError("the types of the execution graph are known after an inference; run the session once first") from failed


def open_openvino(file: Path, threads: int, exact: bool = False) -> OpenVinoSession:
    """`file` in OpenVINO; `exact` as in the class.

    Raises:
        InputError: the package is not installed.
        IntegrityError: the file cannot be opened.
    """
    return OpenVinoSession(file, threads, exact)


def describe_versions() -> str:
    """The runtime's version, for records."""
    return json.dumps({"openvino": _import_runtime().__version__})


def _import_runtime() -> Any:
    try:
        import openvino
    except ImportError as missing:
        raise InputError("openvino is not installed; run pip install 'trimodal[openvino]'") from missing
    return openvino


@cache
def open_core(runtime: Any) -> Any:
    """One for the process: with the last of them its plugin is unloaded, and what that made, freed later, ends the process."""
    return runtime.Core()


def _compile(runtime: Any, file: Path, threads: int, exact: bool) -> Any:
    options = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False, **({"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"} if exact else {}),
    }  # fmt: skip
    try:
        return open_core(runtime).compile_model(str(file), "CPU", options)
    except RuntimeError as failed:
        first = next((line for line in str(failed).splitlines() if line.strip() and "Exception from" not in line), "unknown")
        raise IntegrityError(f"OpenVINO cannot open {file}: {first[:300]}; export it again") from failed


def _name_of(port: Any) -> str:
    """The port's name; OpenVINO's order number where it has none. An input also gets the names of what was fused into it: its own is
    that of its node."""
    names, own = port.get_names(), str(port.get_node().get_friendly_name())
    return own if own in names else min(names) if names else f"port_{port.get_index()}"


def _fix_lengths(port: Any) -> tuple[int, ...]:
    return tuple(_LENGTH if length.is_dynamic else length.get_length() for length in port.get_partial_shape())


def _is_integer(node: Mapping[str, str]) -> bool:
    return node.get("layerType") in _PRODUCTS and ("I8" in node.get("primitiveType", "") or node.get("runtimePrecision") in ("i8", "u8"))

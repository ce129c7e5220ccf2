"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import InputError, IntegrityError
from trimodal.runtimes.session import Arrays, RunError, cast_inputs, describe_refusal

_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(int32)": "int32",
    "tensor(bool)": "bool", "tensor(double)": "float64", "tensor(uint8)": "uint8", "tensor(int8)": "int8",
}  # fmt: skip
_INTEGER_NODES = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger", "QLinearMatMul", "QLinearConv", "ConvInteger",
                  "MatMulNBits", "QGemm", "QAttention", "QLinearAdd", "GatherBlockQuantized")  # fmt: skip


class OnnxRuntimeSession:
    """An ONNX file opened in ONNX Runtime with `threads` threads of its own, which do not spin while they wait. With `exact` the runtime
    does not round the inputs of 4-bit products, as it does of its own accord."""

    def __init__(self, file: Path, threads: int, exact: bool = False) -> None:
        self._file, self._exact, self._runtime = file, exact, _import_runtime()
        self._session = self._open(self._make_options(threads))
        self.input_types: Mapping[str, str] = {value.name: _TYPES.get(value.type, "float32") for value in self._session.get_inputs()}
        self.input_names: Sequence[str] = list(self.input_types)
        self.output_names: Sequence[str] = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays (batch, …) by name -> arrays (batch, …) by name.

        Raises:
            InputError: one is missing, or the runtime cannot compute with them.
        """
        try:
            found = self._session.run(None, cast_inputs(inputs, self.input_types))
        except InputError:
            raise
        except Exception as failed:  # as in `_open`
            raise RunError(describe_refusal("ONNX Runtime", failed)) from failed
        return dict(zip(self.output_names, map(np.asarray, found), strict=True))

    def list_integer_nodes(self) -> Sequence[str]:
        """The nodes of the optimised graph that compute with integers, as `kind name`."""
        with tempfile.TemporaryDirectory() as folder:
            options = self._make_options(1)
            options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
            self._open(options)
            return _read_integer_nodes(Path(folder) / "optimised.onnx")

    def close(self) -> None:
        """Let go of memory and threads."""
        del self._session

    def _make_options(self, threads: int) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if self._exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        return options

    def _open(self, options: Any) -> Any:
        try:
            return self._runtime.InferenceSession(str(self._file), options, providers=["CPUExecutionProvider"])
        except Exception as failed:  # the runtime has errors of its own for each of its codes, without a common kind
            first = str(failed).splitlines()[0][:300]
            raise IntegrityError(f"ONNX Runtime cannot open {self._file}: {first}; export it again") from failed


def open_onnxruntime(file: Path, threads: int, exact: bool = False) -> OnnxRuntimeSession:
    """`file` in ONNX Runtime; `exact` as in the class.

    Raises:
        InputError: the package is not installed.
        IntegrityError: the file cannot be opened.
    """
    return OnnxRuntimeSession(file, threads, exact)


def _import_runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as missing:
        raise InputError("onnxruntime is not installed; run pip install 'trimodal[onnx]'") from missing
    return onnxruntime


def _read_integer_nodes(file: Path) -> list[str]:
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    return [f"{node.op_type} {node.name}" for node in graph.node if node.op_type in _INTEGER_NODES]


def describe_versions() -> str:
    """The runtime's version, for records."""
    return json.dumps({"onnxruntime": _import_runtime().__version__})

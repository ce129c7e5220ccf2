"""LiteRT on the CPU: a .tflite file in the interpreter that phones have, with XNNPACK's kernels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import IntegrityError
from trimodal.runtimes.environment import Environment
from trimodal.runtimes.fixed_shapes import run_by_sample
from trimodal.runtimes.remote import RemoteSession
from trimodal.runtimes.session import Arrays, Session, cast_inputs

ENVIRONMENT = Environment("litert", ("ai_edge_litert",))
_PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "BATCH_MATMUL", "TRANSPOSE_CONV")


class LitertSession:
    """A .tflite file of one signature, opened here with `threads` threads."""

    def __init__(self, file: Path, threads: int) -> None:
        from ai_edge_litert import interpreter as runtime

        try:
            self._interpreter = runtime.Interpreter(str(file), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as failed:
            raise IntegrityError(f"LiteRT cannot open {file}: {str(failed).splitlines()[0][:300]}; export it again") from failed
        key, signature = next(iter(self._interpreter.get_signature_list().items()))
        self._runner = self._interpreter.get_signature_runner(key)
        self.input_names: Sequence[str] = signature["inputs"]
        self.output_names: Sequence[str] = signature["outputs"]
        details = self._runner.get_input_details()
        self._shapes = {name: details[name]["shape"].tolist() for name in self.input_names}
        self.input_types: Mapping[str, str] = {name: np.dtype(details[name]["dtype"]).name for name in self.input_names}

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays (batch, …) by name -> arrays (batch, …) by name, sample by sample."""
        return run_by_sample(lambda sample: self._runner(**sample), cast_inputs(inputs, self.input_types), self._shapes)

    def measure_seconds(self, inputs: Arrays, times: int) -> list[float]:
        """The CPU seconds of each of so many runs."""
        feed, found = cast_inputs(inputs, self.input_types), []
        for _ in range(times):
            start = time.process_time()
            self._runner(**feed)
            found.append(time.process_time() - start)
        return found

    def list_integer_nodes(self) -> Sequence[str]:
        """The products with integer weights and float outputs or integer inputs, as `kind name`; a weight that an operator dequantizes
        first is none."""
        tensors = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}
        return [
            f"{node['op_name']} {tensors[node['inputs'][1]]['name']}" for node in self._interpreter._get_ops_details()
            if node["op_name"] in _PRODUCTS and np.dtype(tensors[node["inputs"][1]]["dtype"]).kind in "iu"
        ]  # fmt: skip

    def close(self) -> None:
        """Let go of memory and threads."""
        del self._runner, self._interpreter


def open_litert(file: Path, threads: int, exact: bool = False) -> Session:
    """`file` in LiteRT, here or in the environment that has it. `exact` changes nothing.

    Raises:
        InputError: no environment has the package.
        IntegrityError: the file cannot be opened.
    """
    return LitertSession(file, threads) if ENVIRONMENT.here else RemoteSession("litert", file, threads, ENVIRONMENT)

"""ExecuTorch on the CPU: a .pte file in the runtime that phones have, with XNNPACK's kernels."""

from __future__ import annotations

import importlib
import json
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

ENVIRONMENT = Environment("executorch", ("executorch",))
DESCRIPTION = "describe"
"""The method of our files that returns what they are, as JSON in bytes: names, shapes, types, and nodes computed with integers."""


class ExecutorchSession:
    """A .pte file that we wrote, opened here with `threads` threads."""

    def __init__(self, file: Path, threads: int) -> None:
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        importlib.import_module("executorch.kernels.quantized")  # registers what decodes codes where XNNPACK does not
        self._torch = torch
        portable_lib._unsafe_reset_threadpool(threads)
        try:
            self._program = Runtime.get().load_program(str(file))
            said = bytes(self._program.load_method(DESCRIPTION).execute([])[0].tolist())
            self._method = self._program.load_method("forward")
        except (RuntimeError, ValueError, AttributeError) as failed:
            raise IntegrityError(f"ExecuTorch cannot open {file}: {str(failed).splitlines()[0][:300]}; export it again") from failed
        self._described: dict[str, Any] = json.loads(said)
        self.input_names: Sequence[str] = list(self._described["inputs"])
        self.output_names: Sequence[str] = list(self._described["outputs"])
        self._shapes = {name: shape for name, (shape, _) in self._described["inputs"].items()}
        self.input_types: Mapping[str, str] = {name: kind for name, (_, kind) in self._described["inputs"].items()}

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays (batch, …) by name -> arrays (batch, …) by name, sample by sample."""

        def run_sample(sample: Arrays) -> dict[str, NDArray[Any]]:
            found = self._method.execute(self._as_tensors(sample))
            return {name: value.numpy().copy() for name, value in zip(self.output_names, found, strict=True)}

        return run_by_sample(run_sample, cast_inputs(inputs, self.input_types), self._shapes)

    def measure_seconds(self, inputs: Arrays, times: int) -> list[float]:
        """The CPU seconds of each of so many runs."""
        feed, found = self._as_tensors(cast_inputs(inputs, self.input_types)), []
        for _ in range(times):
            start = time.process_time()
            self._method.execute(feed)
            found.append(time.process_time() - start)
        return found

    def list_integer_nodes(self) -> Sequence[str]:
        """The products that XNNPACK took with integer weights, as `kind layer`."""
        return list(self._described["integer_nodes"])

    def close(self) -> None:
        """Let go of memory."""
        del self._method, self._program

    def _as_tensors(self, arrays: Arrays) -> list[Any]:
        return [self._torch.from_numpy(np.array(arrays[name])) for name in self.input_names]


def open_executorch(file: Path, threads: int, exact: bool = False) -> Session:
    """`file` in ExecuTorch, here or in the environment that has it. `exact` changes nothing.

    Raises:
        InputError: no environment has the package.
        IntegrityError: the file cannot be opened.
    """
    return ExecutorchSession(file, threads) if ENVIRONMENT.here else RemoteSession("executorch", file, threads, ENVIRONMENT)

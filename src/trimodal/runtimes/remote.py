"""A session in another process, for runtimes whose packages are in an environment of their own.

Both sides send messages over the other's standard input and output: the length of a header in 8 bytes, the header as JSON, and the
arrays' bytes one after the other, as the header lists them.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import IntegrityError
from trimodal.runtimes.environment import Environment, make_command
from trimodal.runtimes.session import Arrays

_LENGTH = struct.Struct("<Q")


class RemoteSession:
    """A file opened by the runtime called `name` in the environment that has it."""

    def __init__(self, name: str, file: Path, threads: int, environment: Environment) -> None:
        command = make_command(environment.find_python(), "runtimes.remote_process:serve_session", name, str(file.resolve()), str(threads))
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": str(threads)}  # ExecuTorch goes by it for its kernels
        self._name, self._file = name, file
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=quiet)
        header, _ = self._receive()
        self.input_names: Sequence[str] = header["inputs"]
        self.input_types: Mapping[str, str] = {}
        self.output_names: Sequence[str] = header["outputs"]

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays by name -> arrays by name."""
        return self._ask({"do": "run"}, inputs)[1]

    def measure_seconds(self, inputs: Arrays, times: int) -> list[float]:
        """The CPU seconds of each of so many runs, measured where they run."""
        return [float(seconds) for seconds in self._ask({"do": "measure", "times": times}, inputs)[0]["seconds"]]

    def list_integer_nodes(self) -> Sequence[str]:
        """The nodes that the runtime computes with integers."""
        return list(self._ask({"do": "nodes"}, {})[0]["nodes"])

    def close(self) -> None:
        """End the other process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, header: Mapping[str, Any], arrays: Arrays) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # what it said before it ended comes with the answer
            send_message(self._process.stdin, header, arrays)
        return self._receive()

    def _receive(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        assert self._process.stdout is not None
        found = receive_message(self._process.stdout)
        if found is None:
            said = self._process.communicate()[1].decode(errors="replace").strip().splitlines()
            raise IntegrityError(f"{self._name} ended while it had {self._file} open: {(said or ['it said nothing'])[-1][:300]}")
        if "error" in found[0]:
            raise IntegrityError(f"{self._name} cannot run {self._file}: {found[0]['error']}; export it again")
        return found


def send_message(stream: IO[bytes], header: Mapping[str, Any], arrays: Arrays) -> None:
    """Write a header and arrays of any shape and type, by name."""
    listed = [(name, value.dtype.str, value.shape) for name, value in arrays.items()]
    text = json.dumps({**header, "arrays": listed}).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    for value in arrays.values():
        stream.write(np.ascontiguousarray(value).tobytes())
    stream.flush()


def receive_message(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """A header and arrays by name, in their shapes and dtypes; None at the end."""
    start = stream.read(_LENGTH.size)
    if len(start) < _LENGTH.size:
        return None
    header = json.loads(stream.read(_LENGTH.unpack(start)[0]))
    arrays: dict[str, NDArray[Any]] = {}
    for name, kind, shape in header.pop("arrays"):
        dtype = np.dtype(kind)
        arrays[name] = np.frombuffer(stream.read(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)
    return header, arrays

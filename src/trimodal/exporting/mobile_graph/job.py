"""A component handed to a program in another environment: a folder with the traced program, what is to be done, and what came of it."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimodal.errors import ModelError
from trimodal.exporting.component import Component, ComponentModule
from trimodal.runtimes.environment import Environment, run_program

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"


@dataclass(frozen=True)
class Traced:
    """The outputs of the example by name, and the names of the model's own tensors that the program reads."""

    outputs: dict[str, Tensor]
    tensors: frozenset[str]


@dataclass(frozen=True)
class Job:
    """The folder of one component's conversion."""

    folder: Path
    component: Component

    def trace(self) -> Traced:
        """Write the component's program, with the shapes of its example.

        Raises:
            ModelError: it cannot be traced.
        """
        module, inputs = ComponentModule(self.component), tuple(self.component.inputs.values())
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                outputs = dict(zip(self.component.outputs, module(*inputs), strict=True))
                program = torch.export.export(module, inputs)
            except (RuntimeError, TypeError, ValueError, torch._dynamo.exc.TorchDynamoException) as failed:
                first = (str(failed).strip() or type(failed).__name__).splitlines()[0][:300]
                raise ModelError(f"{self.component.name} cannot be traced: {first}") from failed
            torch.export.save(program, self.folder / "program.pt2")
        torch.save(list(inputs), self.folder / "inputs.pt")
        return Traced(outputs, _list_used_tensors(program))

    def run(self, program: str, environment: Environment, said: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> dict[str, Any]:
        """Have `program` do what `said` says with `arrays` of any shape and type; what it says in return.

        Raises:
            ModelError: it failed.
            InputError: there is no environment that can run it.
        """
        (self.folder / "job.json").write_text(json.dumps(said), encoding="utf-8")
        np.savez(self.folder / "codes.npz", **{name: value.numpy() for name, value in arrays.items()})  # type: ignore[arg-type]
        try:
            run_program(environment.find_python(), PROGRAMS / program, [str(self.folder)])
        except RuntimeError as failed:
            raise ModelError(f"{environment.name} cannot convert {self.component.name}: {failed}") from failed
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        return found


def _list_used_tensors(program: Any) -> frozenset[str]:
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    used = {node.name for node in program.graph_module.graph.nodes if node.op == "placeholder" and node.users}
    return frozenset(str(target).removeprefix("model.") for name, target in names.items() if name in used)


@contextmanager
def open_job(component: Component) -> Iterator[Job]:
    """A job's folder, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="trimodal-") as folder:
        yield Job(Path(folder), component)

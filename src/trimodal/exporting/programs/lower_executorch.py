"""An exported program into a .pte file for XNNPACK. Run as: python lower_executorch.py JOB

JOB is a folder:    program.pt2    the program, products in the operators of `quantized_decomposed`
                    job.json       {"describe": {what it says}, "layers": [paths of integer products]}
it leaves           model.pte, result.json    {"lost": [paths], "operators": {kind outside: count}, "versions": {package: version}}

Codes and scales are in the program; XNNPACK's serialiser writes them as they are.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

importlib.import_module("executorch.kernels.quantized")  # registers what decodes codes outside of XNNPACK
DESCRIBE = "describe"


def lower(job: Path, said: dict[str, Any]) -> dict[str, Any]:
    """Write the file; what is to be known of it."""
    program = torch.export.load(job / "program.pt2")
    edge = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()], compile_config=EdgeCompileConfig(_check_ir_validity=False),
        constant_methods={DESCRIBE: encode(said["describe"])},
    )  # fmt: skip
    lowered = edge.exported_program()
    lost, operators = find_float_layers(lowered), count_operators(lowered)  # now: what follows changes the graph
    whole = {**said["describe"], "integer_nodes": [f"product {path}" for path in said["layers"] if path not in lost]}
    edge._config_methods[DESCRIBE] = encode(whole)
    (job / "model.pte").write_bytes(edge.to_executorch().buffer)
    return {
        "lost": sorted(lost), "operators": operators,
        "versions": {name: version(name) for name in ("executorch", "torch")},
    }  # fmt: skip


def encode(described: dict[str, Any]) -> torch.Tensor:
    """JSON as bytes uint8 (n,), which a method without inputs can return."""
    return torch.frombuffer(bytearray(json.dumps(described).encode()), dtype=torch.uint8)


def find_float_layers(program: Any) -> set[str]:
    """The layers whose codes an operator outside of XNNPACK dequantizes."""
    names = {**program.graph_signature.inputs_to_buffers, **program.graph_signature.inputs_to_parameters}
    found = set()
    for node in program.graph.nodes:
        if node.op == "call_function" and "dequantize_per_channel" in str(node.target):
            name = names.get(node.args[0].name, "")
            found.add(name.removeprefix("model.").removesuffix(".codes"))
    return found


def count_operators(program: Any) -> dict[str, int]:
    """What runs outside of XNNPACK, by operator; `delegate` is a part that runs in it."""
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    kinds = [str(getattr(target, "__name__", target)).removesuffix(".default") for target in called]
    return dict(Counter("delegate" if "delegate" in kind else kind for kind in kinds if "getitem" not in kind))


def main(job: Path) -> None:
    """Carry out the job."""
    said = json.loads((job / "job.json").read_text(encoding="utf-8"))
    (job / "result.json").write_text(json.dumps(lower(job, said)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

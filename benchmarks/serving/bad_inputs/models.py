"""The models that are served: a small CLIP, a small Whisper, and tensors that only the Open Inference Protocol takes.

The last is written here, node by node, so that a request can make native code fail (an index beyond a table) or run for as long as it
says (a loop), which no model does on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trimodal.writing.sums import sha256

ROWS = 10
"""Of the table in `tensors.look`: a place from here on is none."""


def write_models(folder: Path) -> dict[str, Path]:
    """The folders by the name that each is served under."""
    from trimodal.exporting.export import export
    from trimodal.networks.tiny import write_miniature

    found: dict[str, Path] = {}
    for name in ("clip", "whisper"):
        found[name] = write_miniature(name, folder / name)
        export(str(found[name]), "onnx", found[name] / "onnx")
    found["tensors"] = write_tensor_model(folder / "tensors")
    return found


def write_artifact(folder: Path, source: Path) -> Path:
    """What `trimodal compress` makes of `source`."""
    import trimodal

    trimodal.compress(str(source), "int8", out=folder)
    return folder


def write_tensor_model(folder: Path) -> Path:
    """An exported folder of three files: `add` takes many datatypes, `look` fails at a place that its table lacks, `spin` computes for as
    many steps as it is told."""
    folder.mkdir(parents=True)
    parts = [write_graph(folder, name, *make()) for name, make in (("add", _make_add), ("look", _make_look), ("spin", _make_spin))]
    write_export(folder, parts)
    return folder


def write_export(folder: Path, parts: list[dict[str, Any]], **changed: Any) -> None:
    """The `export.json` of graphs that lie in `folder`."""
    files = {file: sha256(folder / file) for part in parts for file in part["files"]}
    said = {
        "format": 1, "to": "onnx", "family": "tensors", "runtime": "onnxruntime", "components": parts, "safe_words": ROWS, "answers": {},
        "files": files, **changed,
    }  # fmt: skip
    (folder / "export.json").write_text(json.dumps(said))


def write_graph(folder: Path, name: str, graph: Any, inputs: Mapping[str, list[Any]], outputs: Mapping[str, list[Any]]) -> dict[str, Any]:
    """One ONNX file, and what `export.json` says of it."""
    import onnx

    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / f"{name}.onnx"))
    return {"name": name, "files": [f"{name}.onnx"], "inputs": dict(inputs), "outputs": dict(outputs)}


def _value(name: str, kind: Any, shape: list[Any]) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, shape)


def _make_add() -> tuple[Any, dict[str, list[Any]], dict[str, list[Any]]]:
    """sum = floats + small + tiny, zeroed where `keep` is false."""
    from onnx import TensorProto, helper

    kinds = {"floats": TensorProto.FLOAT, "small": TensorProto.INT8, "tiny": TensorProto.UINT8, "keep": TensorProto.BOOL}
    shape: list[Any] = ["batch_size", 3]
    nodes = [helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT) for name in ("small", "tiny", "keep")]
    nodes += [
        helper.make_node("Add", ["floats", "small_f"], ["some"]), helper.make_node("Add", ["some", "tiny_f"], ["all"]),
        helper.make_node("Mul", ["all", "keep_f"], ["sum"]),
    ]  # fmt: skip
    given = [_value(name, kind, shape) for name, kind in kinds.items()]
    graph = helper.make_graph(nodes, "add", given, [_value("sum", TensorProto.FLOAT, shape)])
    return graph, dict.fromkeys(kinds, shape), {"sum": shape}


def _make_look() -> tuple[Any, dict[str, list[Any]], dict[str, list[Any]]]:
    """found[sample, place] = table[place_ids[sample, place]]; an index that the table lacks ends the run."""
    from onnx import TensorProto, helper, numpy_helper

    table = numpy_helper.from_array(np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2), "table")
    shape: list[Any] = ["batch_size", 4]
    node = helper.make_node("Gather", ["table", "place_ids"], ["found"], axis=0)
    graph = helper.make_graph(
        [node], "look", [_value("place_ids", TensorProto.INT64, shape)], [_value("found", TensorProto.FLOAT, [*shape, 2])], [table]
    )
    return graph, {"place_ids": shape}, {"found": [*shape, 2]}


def _make_spin() -> tuple[Any, dict[str, list[Any]], dict[str, list[Any]]]:
    """turned = the largest of `steps`, counted one by one."""
    from onnx import TensorProto, helper, numpy_helper

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]), helper.make_node("Add", ["count", "one"], ["counted"]),
        ],
        "body",
        [_value("turn", TensorProto.INT64, []), _value("going", TensorProto.BOOL, []), _value("count", TensorProto.FLOAT, ["b", 1])],
        [_value("goes_on", TensorProto.BOOL, []), _value("counted", TensorProto.FLOAT, ["b", 1])],
    )  # fmt: skip
    shape: list[Any] = ["batch_size", 1]
    nodes = [
        helper.make_node("ReduceMax", ["steps"], ["most"], keepdims=0),
        helper.make_node("Cast", ["steps"], ["steps_f"], to=TensorProto.FLOAT), helper.make_node("Mul", ["steps_f", "zero"], ["start"]),
        helper.make_node("Loop", ["most", "yes", "start"], ["turned"], body=body),
    ]  # fmt: skip
    constants = [numpy_helper.from_array(np.float32(1), "one"), numpy_helper.from_array(np.float32(0), "zero"),
                 numpy_helper.from_array(np.bool_(True), "yes")]  # fmt: skip
    graph = helper.make_graph(
        nodes, "spin", [_value("steps", TensorProto.INT64, shape)], [_value("turned", TensorProto.FLOAT, shape)], constants
    )
    return graph, {"steps": shape}, {"turned": shape}

"""What tidying does to a graph: it says so step by step, the sums are right, and the outputs are the same."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from trimodal.exporting.component import Component
from trimodal.exporting.export import prepare_source
from trimodal.exporting.graph_changes import GraphChange, describe_changes
from trimodal.exporting.onnx import build_graph
from trimodal.exporting.onnx_graph.tidy import MERGED, STORED, tidy_graph_
from trimodal.exporting.self_check import make_probe_inputs
from trimodal.formats import open_model
from trimodal.networks.tiny import write_miniature
from trimodal.runtimes.onnxruntime import open_onnxruntime


@pytest.mark.parametrize("family", ["bert", "vit", "resnet"])
def test_a_tidied_graph_gives_the_same_outputs(family: str, tmp_path: Path) -> None:
    source = prepare_source(open_model(str(write_miniature(family, tmp_path / family))))
    (component,) = source.components
    assert isinstance(component, Component)
    graph, _ = build_graph(component, source, tidy=False)
    ir.save(graph, tmp_path / "traced.onnx")
    before = Counter(node.op_type for node in graph.graph)
    changes = tidy_graph_(graph)
    ir.save(graph, tmp_path / "tidied.onnx")
    after = Counter(node.op_type for node in graph.graph)
    assert (changes[0].before, changes[-1].after) == (before.total(), after.total()) and after.total() < before.total()
    assert all(one.after == other.before for one, other in pairwise(changes))
    assert after["Constant"] == after["Identity"] == 0
    assert sum(change.gone.get("Constant", 0) for change in changes) == before["Constant"]
    inputs = {name: value.numpy() for name, value in make_probe_inputs(component, 30).items()}
    found = []
    for name in ("traced", "tidied"):
        session = open_onnxruntime(tmp_path / f"{name}.onnx", 1, exact=True)
        found.append(session.run(inputs))
        session.close()
    for name, value in found[0].items():
        assert float(np.abs(value - found[1][name]).max()) <= 1e-5 * float(np.abs(value).max()), name


def test_equal_nodes_become_one_and_nodes_of_constants_are_counted() -> None:
    value = ir.Value(name="x", shape=ir.Shape(["n", 4]), type=ir.TensorType(ir.DataType.FLOAT))
    two = ir.node("Constant", [], attributes={"value": ir.tensor(np.array([2.0], np.float32))})
    products = [ir.node("Mul", [value, two.outputs[0]], name=f"product{n}") for n in range(2)]
    total = ir.node("Add", [node.outputs[0] for node in products], name="total")
    total.outputs[0].name, total.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([value], [total.outputs[0]], nodes=[two, *products, total], opset_imports={"": 21}, name="g")
    changes = {change.name: change for change in tidy_graph_(ir.Model(graph, ir_version=10))}
    assert changes[STORED].gone == {"Constant": 1}
    assert changes[MERGED].gone == {"Mul": 1}
    assert [node.op_type for node in graph] == ["Mul", "Add"]


def test_changes_are_told_in_one_line() -> None:
    changes = (GraphChange("nodes computed beforehand", 9, 6, {"Cast": 2, "Constant": 1}), GraphChange("equal nodes made one", 6, 6))
    assert describe_changes(changes) == "9 nodes with the codes, 6 written: 3 nodes computed beforehand (2 Cast)"
    assert describe_changes(changes[1:]) == "6 nodes with the codes, 6 written: nothing was to be removed"
    assert describe_changes(()) == ""

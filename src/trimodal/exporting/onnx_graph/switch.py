"""An input that a call can do without: a switch, after which it has no tokens and all that is computed from it costs nothing.

    encoder_hidden_states → …    becomes    Slice(encoder_hidden_states, 0, length · (1 − switch)) → …

There is no `If`: every product stays in one graph, where a runtime finds what it can fuse, and no weight is in two.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def add_switch_(graph: ir.Graph, switch: str, name: str) -> None:
    """Give `graph` the input `switch`, bool (1,): where it is true, the input `name` (batch, length, …) has length 0."""
    flag = ir.Value(name=switch, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([1]))
    states = next(value for value in graph.inputs if value.name == name)
    users = [(use.node, use.idx) for use in states.uses()]
    nodes = _slice_nodes(graph, flag, states)
    taken = nodes[-1].outputs[0]
    for node, place in users:
        node.replace_input_with(place, taken)
    first = next(iter(graph))
    graph.insert_before(first, nodes)
    graph.inputs.append(flag)


def _slice_nodes(graph: ir.Graph, flag: ir.Value, states: ir.Value) -> list[ir.Node]:
    zero, one = (_constant(graph, f"{flag.name}.{number}", [number]) for number in (0, 1))
    cast = ir.node("Cast", [flag], {"to": ir.DataType.INT64}, name=f"{flag.name}.cast")
    kept = ir.node("Sub", [one, cast.outputs[0]], name=f"{flag.name}.kept")
    length = ir.node("Shape", [states], {"start": 1, "end": 2}, name=f"{flag.name}.length")
    end = ir.node("Mul", [length.outputs[0], kept.outputs[0]], name=f"{flag.name}.end")
    taken = ir.node("Slice", [states, zero, end.outputs[0], one], name=f"{flag.name}.slice")
    nodes = [cast, kept, length, end, taken]
    for node in nodes:
        node.outputs[0].name = f"{node.name}_output"
    return nodes


def _constant(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    tensor = ir.tensor(np.array(numbers, np.int64), name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape([len(numbers)]), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value

"""A component traced once, in float, into an ONNX graph whose initializers bear the names of the model's own tensors.

The graph is left as it was traced, so that every weight is still found under its name; `coded_weights.py` writes the codes in and
`tidy.py` tidies up after that.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from trimodal.errors import ModelError
from trimodal.exporting.component import Component, ComponentModule
from trimodal.exporting.onnx_graph.switch import add_switch_

OPSET = 21
"""The first that has 4-bit integers and scales by block."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""Under this key of a node's metadata stand the paths of the modules in which it was traced."""
_AUTO = torch.export.Dim.AUTO
_SYMBOL, _VIEWED = re.compile(r"\bs\d+\b"), re.compile(r"\(\((\w+)\*(\w+)\)//\1\)")


def trace_component(component: Component) -> ir.Model:
    """The float graph of a component, inputs and outputs under its names, dimensions of any length under theirs.

    Raises:
        ModelError: it cannot be traced, or a length that may vary was traced as fixed.
    """
    module = ComponentModule(component)
    lengths = tuple(dict.fromkeys(component.dynamic_of(name), _AUTO) for name in component.inputs)
    try:
        with torch.no_grad(), _quiet_tracing():
            program = torch.onnx.export(
                module, tuple(component.inputs.values()), dynamo=True, optimize=False, opset_version=OPSET, verbose=False,
                input_names=list(component.inputs), output_names=list(component.outputs), dynamic_shapes=(lengths,),
            )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError, ValueError) as failed:
        raise ModelError(f"{component.name} cannot be traced: {_first_line(failed)}") from failed
    assert program is not None
    _rename_lengths_(program.model, component)
    _fix_hidden_sizes_(program.model)
    for switch, name in component.switches.items():
        add_switch_(program.model.graph, switch, name)
    return program.model


def initializer_names(component: Component) -> Mapping[int, Sequence[str]]:
    """What the graph's initializers may be called, by the `id` of the parameter: of one that several share, tracing takes any name."""
    found: dict[int, list[str]] = {}
    for name, parameter in ComponentModule(component).named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    return found


def _rename_lengths_(model: ir.Model, component: Component) -> None:
    """Give the lengths that tracing called s0, s1, … the names that the component has for them."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for dim, name in component.dynamic_of(str(value.name)).items():
            length = value.shape[dim] if value.shape is not None else None
            if isinstance(length, int):
                raise ModelError(
                    f"{component.name}: {value.name} was traced with {name} fixed at {length}; a file that takes no other is of no use"
                )
            names.setdefault(str(length.value if length is not None else ""), name)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([_rename_length(length, names) for length in value.shape])
    for node in model.graph:
        for value in node.outputs:
            if value not in model.graph.outputs:
                value.shape = None  # symbols that nobody knows any longer


def _fix_hidden_sizes_(model: ir.Model) -> None:
    """Say how wide a recurrent layer is, which tracing reads off its first state: else its gates would be put in order in every call."""
    recurrent = [node for node in model.graph if node.op_type in ("LSTM", "GRU")]
    widths = {node.metadata_props.get(SCOPES): node.attributes["hidden_size"].as_int() for node in recurrent}
    for node in model.graph:
        if node.op_type == "Shape" and (width := widths.get(node.metadata_props.get(SCOPES))) is not None and _takes_third(node):
            constant = ir.node("Constant", [], attributes={"value": ir.tensor(np.array([width], np.int64))})
            model.graph.insert_before(node, constant)
            node.outputs[0].replace_all_uses_with(constant.outputs[0])


def _takes_third(node: ir.Node) -> bool:
    """Whether a Shape gives the third dimension: (layers, batch, width)."""
    return [node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end")] == [2, 3]


def _rename_length(length: Any, names: Mapping[str, str]) -> int | str:
    """Also in sums of lengths, and in what a view that leaves one length open says of it."""
    if isinstance(length, int):
        return length
    return _VIEWED.sub(r"\2", _SYMBOL.sub(lambda found: names.get(found[0], found[0]), str(length.value)))


def _first_line(failed: BaseException) -> str:
    cause: BaseException = failed
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause).strip() or type(cause).__name__
    return text.splitlines()[0][:300]


@contextmanager
def _quiet_tracing() -> Iterator[None]:
    """Without the exporter's progress and its remarks on packages that are not there."""
    loud = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter", "torch.utils._pytree")]
    levels = [logger.level for logger in loud]
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
        warnings.simplefilter("ignore")
        for logger in loud:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loud, levels, strict=True):
                logger.setLevel(level)


def find_plain_modules(component: Component) -> Mapping[str, nn.Module]:
    """The component's modules by path in the model."""
    return dict(component.module.named_modules())

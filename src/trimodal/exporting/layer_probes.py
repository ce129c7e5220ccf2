"""Each layer of an exported graph on its own: cut out of the file, to be fed what the simulation's layer gets.

A static W8A8 layer is found by the name of its codes: the product that they go into, and above it the quantization of its input. Cut
out are the nodes from what is quantized to the product's output, before the bias where that is added by a node of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimodal.core import Check
from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.self_check import ProbeFile, RunFile
from trimodal.exporting.written_graph.graph import Value, WrittenGraph, find_product

PRODUCTS = ("MatMul", "Gemm", "Conv")
_SATURATED = "sums of 8-bit products saturate on the target: ONNX Runtime's with unsigned weights do not"
_SUMS = 1e-5  # of the largest output: sums in another order


@dataclass(frozen=True)
class LayerProbe:
    """One layer cut out of a component's graph: its path, what it is fed, and what the simulation gives, without the bias."""

    path: str
    file: ProbeFile
    wanted: Tensor
    allowed: float


@contextmanager
def record_layer_calls(module: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Meanwhile, what each layer at `paths` takes and gives at its first call; of any shape."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(path: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            if path not in found and inputs:
                found[path] = (inputs[0].detach().float().clone(), output.detach().float().clone())  # some models add to it in place

        return hook

    handles = [module.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def cut_layer_probes(
    graph: WrittenGraph, layers: Mapping[str, LayerCodes], calls: Mapping[str, tuple[Tensor, Tensor]], scratch: Path, suffix: str
) -> list[LayerProbe]:
    """The static layers of `graph` that were called, each in a file of its own in `scratch`."""
    found: list[LayerProbe] = []
    for path, (x, y) in calls.items():
        codes = layers[path]
        product = find_product(graph, path, PRODUCTS)
        if product is None or codes.input is None or codes.input.scale is None:
            continue
        sources, kind = graph.list_sources(product), graph.get_kind(product)
        place = scratch / f"layer{len(found)}{suffix}"
        given = _fit_rank(x, kind)
        (name,) = graph.cut({"x": (_find_start(graph, sources[0]), given.shape)}, [graph.get_output(product)], place)
        biased = len(sources) > 2  # else the bias is added after what was cut out
        wanted = _fit_rank(y if biased else y - _bias_of(codes.layer, y), kind)
        allowed = codes.input.scale * _largest_code_weight(codes) + _SUMS * float(wanted.abs().max())
        found.append(LayerProbe(path, ProbeFile(path, place, {name: given.numpy()}), wanted, allowed))
    return found


def check_layers(probes: Sequence[LayerProbe], runs: Mapping[str, RunFile], saturates: bool = False) -> list[Check]:
    """Whether no layer is further from the simulation's than one code of one entry of its input makes. Where the target `saturates` that
    is a finding which refuses nothing: the file may be right, and the whole model is held to its margin in any case."""
    if not probes:
        return []
    worst, where = 0.0, ""
    for probe in probes:
        found: NDArray[Any] = next(iter(runs[probe.path].outputs.values()))
        difference = (torch.from_numpy(np.array(found)).view_as(probe.wanted) - probe.wanted).abs().max().nan_to_num(nan=torch.inf)
        distance = float(difference) / max(probe.allowed, 1e-30)  # a layer of zeros allows nothing, and is not off
        if distance > worst:
            worst, where = distance, probe.path
    said = f"{len(probes)} layers, the furthest {worst:.2g} codes off" + (f" ({where})" if where else "")
    if worst > 1:
        said += "; " + (_SATURATED if saturates else "sums of 8-bit products may saturate on this processor: give its target (--target)")
    return [Check.from_outcome("layers equal the simulation's to one code", worst <= 1, said, "quality" if saturates else "integrity")]


def _find_start(graph: WrittenGraph, value: Value) -> Value:
    """What a layer takes: the value above what scales, holds back and quantizes it."""
    quantized = graph.find_quantized(value)
    if quantized is None:
        return value
    node = graph.get_maker(quantized)
    while node is not None and graph.get_kind(node) in ("Mul", "Min"):
        taken, factor = graph.list_sources(node)
        if graph.get_kind(node) == "Mul" and not graph.get_name(factor).endswith(".columns"):
            break
        quantized, node = taken, graph.get_maker(taken)
    return quantized


def _largest_code_weight(codes: LayerCodes) -> float:
    """The largest weight that meets a code of the input, which is scaled by `columns`."""
    weight = codes.parameter.detach().float().abs()
    weight = weight.flatten(2).amax(dim=-1) if weight.dim() > 2 else weight
    return float((weight if codes.columns is None else weight / codes.columns).max())


def _bias_of(layer: nn.Module, like: Tensor) -> Tensor:
    bias = getattr(layer, "bias", None)
    if not isinstance(bias, Tensor):
        return torch.zeros(())
    spread = tuple(1 for _ in like.shape[2:]) if isinstance(layer, nn.Conv1d | nn.Conv2d) else ()
    return bias.detach().float().view(-1, *spread)


def _fit_rank(value: Tensor, kind: str) -> Tensor:
    """A Gemm takes a matrix."""
    return value.flatten(0, -2) if kind == "Gemm" else value

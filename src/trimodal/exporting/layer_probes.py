"""Each layer of an exported graph on its own: cut out of the file, to be fed what the simulation's layer gets.

A static W8A8 layer is found by its codes' initializer: the product that uses them, and above it the quantization of its input. Cut out
are the nodes from what is quantized to the product's output, before the bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.utils import Extractor
from torch import Tensor, nn

from trimodal.core import Check
from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.self_check import ProbeFile, RunFile

_PRODUCTS = ("MatMul", "Gemm", "Conv")
_SUMS = 1e-5  # of the largest output: sums in another order
_ABOVE = ("DequantizeLinear", "QuantizeLinear", "Mul", "Min")


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
    file: Path, layers: Mapping[str, LayerCodes], calls: Mapping[str, tuple[Tensor, Tensor]], scratch: Path
) -> list[LayerProbe]:
    """The static layers of the ONNX `file` that were called, each in a file of its own in `scratch`."""
    model = onnx.load(str(file))
    makers = {name: node for node in model.graph.node for name in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    extractor = Extractor(model)
    found: list[LayerProbe] = []
    for path, (x, y) in calls.items():
        codes = layers[path]
        product = _find_product(f"{path}.codes", users)
        if product is None or codes.input is None or codes.input.scale is None:
            continue
        start = _walk_up(product.input[0], makers)
        place = scratch / f"layer{len(found)}.onnx"
        onnx.save(extractor.extract_model([start], [product.output[0]]), str(place))
        shaped = _fit_rank(x, product.op_type)
        biased = len(product.input) > 2  # else the bias is added after what was cut out
        wanted = _fit_rank(y if biased else y - _bias_of(codes.layer, y), product.op_type)
        allowed = codes.input.scale * _largest_code_weight(codes) + _SUMS * float(wanted.abs().max())
        found.append(LayerProbe(path, ProbeFile(path, place, {start: shaped.numpy()}), wanted, allowed))
    return found


def check_layers(probes: Sequence[LayerProbe], runs: Mapping[str, RunFile]) -> list[Check]:
    """Whether no layer is further from the simulation's than one code of one entry of its input makes."""
    if not probes:
        return []
    worst, where = 0.0, ""
    for probe in probes:
        found: NDArray[Any] = next(iter(runs[probe.path].outputs.values()))
        distance = (torch.from_numpy(np.array(found)) - probe.wanted).abs().max() / probe.allowed
        if float(distance) > worst:
            worst, where = float(distance), probe.path
    said = f"{len(probes)} layers, the furthest {worst:.2g} codes off" + (f" ({where})" if where else "")
    if worst > 1:
        said += "; sums of 8-bit products may saturate on this processor: export for a target with unsigned weights (--target)"
    return [Check.from_outcome("layers equal the simulation's to one code", worst <= 1, said)]


def _find_product(name: str, users: Mapping[str, Sequence[onnx.NodeProto]]) -> onnx.NodeProto | None:
    """The product that the codes called `name` go into."""
    waiting = list(users.get(name, ()))
    while waiting:
        node = waiting.pop()
        if node.op_type in _PRODUCTS:
            return node
        if node.op_type in ("DequantizeLinear", "Transpose"):
            waiting += users.get(node.output[0], ())
    return None


def _walk_up(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """What is quantized: the value above the nodes that scale and quantize."""
    quantized = False
    while name in makers and makers[name].op_type in _ABOVE:
        node = makers[name]
        if node.op_type in ("Mul", "Min") and not quantized:
            break
        quantized = quantized or node.op_type == "QuantizeLinear"
        if node.op_type == "Mul" and not node.input[1].endswith(".columns"):
            break
        name = node.input[0]
    return name


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

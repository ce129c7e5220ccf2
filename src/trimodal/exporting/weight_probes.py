"""Every coded weight read back from the file that was written, decoded by the format's own runtime, and held to what was verified.

Of a product the decoded weight is cut out of the graph, which is made of constants; of an embedding the rows that all of its indices
look up. So a code, a scale or a zero-point that is another one is found, in whatever way the file packs them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trimodal.core import Check
from trimodal.core.target_fit import name_briefly
from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.layer_probes import PRODUCTS
from trimodal.exporting.self_check import ProbeFile, RunFile
from trimodal.exporting.written_graph.graph import Value, WrittenGraph, find_codes, find_product
from trimodal.layers.affine import Affine

AT_ONCE = 2**28
"""How many bytes of decoded weights one process reads back."""
_EXACT = 1e-6  # of each weight: a product of two float32 numbers, rounded once or twice
_DECODING = ("Cast", "Reshape", "Sub", "Mul")
_NAMED = 5  # layers in a message
_RESHAPES = 2  # into blocks and back


@dataclass(frozen=True)
class _Product:
    """One layer whose codes go into a product: its decoded weight in the graph, and whether that is (in, out)."""

    codes: LayerCodes
    value: Value
    turned: bool


@dataclass(frozen=True)
class WeightProbe:
    """Weights of one component in one file: the codes of each output in order, and whether that output is (in, out)."""

    file: ProbeFile
    layers: Sequence[LayerCodes]
    turned: Sequence[bool]


def cut_weight_probes(
    graph: WrittenGraph, name: str, layers: Sequence[LayerCodes], scratch: Path, suffix: str
) -> list[WeightProbe]:
    """`layers` of the component called `name`, as far as its graph has their codes: products many to a file, embeddings each alone."""
    found: list[WeightProbe] = []
    products: list[_Product] = []
    for codes in layers:
        product, value = find_product(graph, codes.path, PRODUCTS), find_codes(graph, codes.path)
        if product is not None:
            turned = graph.get_kind(product) != "Conv" and not graph.takes_transposed(product)
            products.append(_Product(codes, graph.list_sources(product)[1], turned))
        elif value is not None and (rows := _find_rows(graph, value)) is not None:
            place = scratch / f"rows{len(found)}{suffix}"
            (index,) = graph.cut({"index": (rows[0], codes.shape[:1])}, [rows[1]], place)
            found.append(WeightProbe(ProbeFile(f"{name}/{codes.path}", place, {index: np.arange(codes.shape[0])}), [codes], [False]))
    for number, part in enumerate(_split(products)):
        place = scratch / f"weights{number}{suffix}"
        graph.cut({}, [one.value for one in part], place)
        layers_of_part, turned_of_part = [one.codes for one in part], [one.turned for one in part]
        found.append(WeightProbe(ProbeFile(f"{name}/weights{number}", place, {}), layers_of_part, turned_of_part))
    return found


def compare_weights(probe: WeightProbe, run: RunFile) -> dict[str, float]:
    """By path, how much the weight that is furthest from what was verified differs, as a share of it; 1 where it is another weight."""
    return {
        codes.path: _measure_difference(torch.from_numpy(np.array(found)), _decode(codes), turned)
        for codes, found, turned in zip(probe.layers, run.outputs.values(), probe.turned, strict=True)
    }


def check_weights(differences: Iterable[Mapping[str, float]], absent: Collection[str], coded: int) -> list[Check]:
    """Whether every weight that was read back, of `coded` ones, is what was verified in every file that has it. `absent` are layers whose
    codes stand in no file under their names; they must have been read all the same."""
    found = [pair for each in differences for pair in each.items()]
    if not found and not absent:
        return []
    wrong = sorted({path for path, difference in found if not difference <= _EXACT})
    unread = sorted(set(absent) - dict(found).keys())
    said = f"{len(dict(found))} of {coded} coded layers read back"
    if wrong:
        said += f", {len(wrong)} are other weights than were verified: {name_briefly(wrong, _NAMED)}"
    if unread:
        said += f", {len(unread)} were not found in any file: {name_briefly(unread, _NAMED)}"
    return [Check.from_outcome("weights are those that were verified", not wrong and not unread, said)]


def find_readable(layers: Mapping[str, LayerCodes], paths: frozenset[str]) -> list[LayerCodes]:
    """Those of `paths` whose weight, or what it is under that which is done to the input or the output, is codes times scales."""
    return [layers[path] for path in sorted(paths & layers.keys()) if _find_affine(layers[path]) is not None]


def _find_affine(codes: LayerCodes) -> Affine | None:
    return codes.weight if isinstance(codes.weight, Affine) else codes.weight.inner


def _decode(codes: LayerCodes) -> Tensor:
    affine = _find_affine(codes)
    assert affine is not None
    return affine.decode()


def _find_rows(graph: WrittenGraph, value: Value) -> tuple[Value, Value] | None:
    """The indices with which rows of the codes `value` are looked up, and the decoded rows; None where it is not so."""
    index, reshapes = None, 0
    while reshapes < _RESHAPES:
        nodes = [(node, place) for node, place in graph.list_users(value) if graph.get_kind(node) != "Shape"]
        if len(nodes) != 1:
            return None
        ((node, place),) = nodes
        if graph.get_kind(node) == "Gather" and index is None and place == 0:
            index = graph.list_sources(node)[1]
        elif graph.get_kind(node) not in _DECODING or (index is None and not graph.is_constant(graph.get_output(node))):
            return None
        value = graph.get_output(node)
        reshapes += graph.get_kind(node) == "Reshape"
    return None if index is None else (index, value)


def _split(products: Sequence[_Product]) -> Iterator[list[_Product]]:
    """In parts of up to `AT_ONCE` bytes, at least one layer each."""
    part: list[_Product] = []
    size = 0
    for product in products:
        if part and size + product.codes.parameter.nbytes > AT_ONCE:
            yield part
            part, size = [], 0
        part.append(product)
        size += product.codes.parameter.nbytes
    if part:
        yield part


def _measure_difference(found: Tensor, wanted: Tensor, turned: bool) -> float:
    """The largest of |found − wanted| / |wanted|, of the same number of entries; `found` is (in, out) where it is `turned`, else it has
    the shape of `wanted` (out, in, …), or another one that groups of channels have. 1 where it is of another shape."""
    found = found.T if turned and found.dim() == 2 else found
    if found.shape != wanted.shape and (found.dim() == 2 == wanted.dim() or found.numel() != wanted.numel()):
        return 1.0
    return float(((found.reshape(wanted.shape) - wanted).abs() / wanted.abs().clamp(min=1e-30)).max())

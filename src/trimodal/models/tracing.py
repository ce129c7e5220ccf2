"""Which weight dimensions must be cut together, for modules that nobody declared: found by watching one forward pass.

The module runs once on tensors without values (`meta`), and every operator that PyTorch carries out is seen with the
tensors that go in and come out, whatever the code around them looks like. Every entry of every weight dimension is a
node. Along the way each dimension of each tensor carries an array that says, for each of its entries, which node it is:

    linear, convolution     the input's entries are the weight's columns, the output's are its rows
    add, multiply, …        entry by entry both sides are the same node
    cat, split, slice       arrays are joined and sliced; reshape, permute: moved, repeated or gathered into blocks
    grouped convolution     all entries of a group are one node, and so are those of a group norm's group
    depthwise convolution   a group is one channel

Nodes that meet are united. What must be cut together is then one set of nodes, and sets that occur at the same places
in the same order are the units of one label. Some sets cannot be cut, with a reason: they reach the model's input or
output, a norm or softmax runs over them (what stays would no longer compute what it did), the weight is tied, a
parameter outside of all layers or an operator not known here is in between.

A model's code may hold sizes of its own (`view(-1, 8, 16)`). So each label is tried: one unit is cut and the model
watched again. Unless the same couplings are found, one unit smaller, the label is dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trimodal.core import Axis, Fixed, Layout, Site
from trimodal.models.apply import cut_

Nodes = np.ndarray[Any, np.dtype[np.int64]]
Dims = list[Nodes | None]  # per dimension, the node of each entry; None where nothing can be cut
Given = Mapping[str, Any]

_FAILURES = (
    RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError, OSError,
)  # fmt: skip
_ORDER = "layers have its units in different orders"
_OUTPUT = "it is the model's output"
_OWN_SIZE = "the model's own code goes wrong when a unit is missing; it names a size"
_KEPT = ("weight", "bias", "running_mean", "running_var")


def with_couplings(module: nn.Module, layout: Layout, inputs: Mapping[str, Tensor]) -> Layout:
    """`layout` with an axis on every dimension that can be cut, and the reasons why others cannot.

    `inputs` are keyword arguments of the module's forward for one sample; only their shapes and types matter.
    """
    if not inputs:
        return layout
    bare = without_values(module)
    try:
        found = couplings(bare, layout, inputs)
    except _FAILURES as error:
        reason = f"its forward does not run on tensors without values ({type(error).__name__}: {str(error)[:120]})"
        return replace(layout, fixed=(Fixed("", reason),))
    if _holds(bare, found, inputs, found.labels()):
        return found
    return _without(found, [label for label in found.labels() if not _holds(bare, found, inputs, [label])])


def couplings(bare: nn.Module, layout: Layout, inputs: Mapping[str, Tensor]) -> Layout:
    """`layout` with the axes that one forward pass of `bare`, a module on `meta`, shows."""
    trace = _Trace()
    for name, tensor in (*bare.named_parameters(), *bare.named_buffers()):
        trace.enter(tensor, name)
    modules = dict(bare.named_modules())
    known = {id(getattr(modules[site.path], name, None)) for site in layout.sites for name in _KEPT}
    values = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in inputs.items()}
    with torch.no_grad(), torch.device("meta"), trace:
        result = bare.eval()(**values)
    for tensor in _tensors(result):
        trace.fix(tensor, _OUTPUT)
    for name, tensor in (*bare.named_parameters(), *bare.named_buffers()):
        if id(tensor) not in known:
            trace.fix(tensor, f"{name} stands outside of all layers that can be cut")
    for site in layout.sites:
        if site.tied:
            trace.fix(getattr(modules[site.path], "weight"), f"its weight is tied to {site.tied[0]}")  # noqa: B009
    return _Labelling(layout, trace, modules).layout()


def without_values(module: nn.Module) -> nn.Module:
    """A copy of `module` on the meta device; takes no memory for weights."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values(), *vars(part).values()):
            if isinstance(tensor, nn.Parameter):
                memo[id(tensor)] = nn.Parameter(tensor.detach().to("meta"), requires_grad=False)
            elif isinstance(tensor, Tensor):
                memo[id(tensor)] = tensor.detach().to("meta")
    return copy.deepcopy(module, memo)


def _holds(bare: nn.Module, layout: Layout, inputs: Mapping[str, Tensor], labels: Sequence[str]) -> bool:
    """Whether the module with the last unit of each of the `labels` cut shows what the layout foretells."""
    smaller, expected = copy.deepcopy(bare), layout
    for label in labels:
        axes = (axis for site in expected.carrying(label) for axis in (site.output_axis, site.input_axis) if axis)
        kept = range(next(axis.units_of(label) for axis in axes if label in axis.labels) - 1)
        cut_(smaller, expected, label, kept)
        expected = expected.cut(label, kept)
    plain = replace(expected, sites=tuple(replace(s, input_axis=None, output_axis=None) for s in expected.sites))
    try:
        found = couplings(smaller, plain, inputs)
    except _FAILURES:
        return False
    return _shapes(found, expected, labels) == _shapes(expected, expected, labels)


def _shapes(layout: Layout, expected: Layout, labels: Sequence[str]) -> list[Any]:
    """What the axes look like at the sites where `expected` has the `labels`, whatever they are called there."""
    found = []
    for site, other in zip(layout.sites, expected.sites, strict=True):
        for axis, wanted in ((site.input_axis, other.input_axis), (site.output_axis, other.output_axis)):
            if wanted is not None and set(labels) & set(wanted.labels):
                parts = () if axis is None else axis.parts
                found.append([(bool(p.label), p.units, p.width, p.repeats) for p in parts])
    return found


def _without(layout: Layout, labels: Sequence[str]) -> Layout:
    """The layout without these labels, which were tried and do not hold."""

    def cleared(axis: Axis | None) -> Axis | None:
        return None if axis is None else _joined([p if p.label not in labels else Axis("", _size(p)) for p in axis.parts])

    sites = [replace(s, input_axis=cleared(s.input_axis), output_axis=cleared(s.output_axis)) for s in layout.sites]
    fixed = (*layout.fixed, *(Fixed(label, _OWN_SIZE) for label in labels))
    return replace(layout, sites=tuple(sites), fixed=fixed)


def _size(part: Axis) -> int:
    return part.units * part.width * part.repeats


def _joined(parts: Iterable[Axis]) -> Axis | None:
    """The parts as one axis, neighbours without a label made one; None if none has a label."""
    found: list[Axis] = []
    for part in parts:
        if found and not part.label and not found[-1].label:
            found[-1] = Axis("", _size(found[-1]) + _size(part))
        else:
            found.append(part)
    return replace(found[0], then=tuple(found[1:])) if any(part.label for part in found) else None


def _tensors(result: Any) -> list[Tensor]:
    """All tensors in what a forward returned."""
    found: list[Tensor] = []
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__"):
            found += _tensors(list(vars(leaf).values()))
    return found


class _Sets:
    """Which nodes have been united, and why some sets cannot be cut."""

    def __init__(self) -> None:
        self._parent: Nodes = np.arange(1024)
        self._count = 0
        self.reasons: dict[int, str] = {}

    def new(self, count: int) -> Nodes:
        """So many new nodes."""
        while self._count + count > len(self._parent):
            self._parent = np.concatenate((self._parent, np.arange(len(self._parent), 2 * len(self._parent))))
        self._count += count
        return np.arange(self._count - count, self._count)

    def roots(self, nodes: Nodes) -> Nodes:
        """The node that stands for the set of each."""
        found = self._parent[nodes]
        while not np.array_equal(up := self._parent[found], found):
            found = up
        self._parent[nodes] = found
        return found

    def unite(self, left: Nodes, right: Nodes) -> None:
        """Entry by entry both are the same from now on."""
        pairs = np.stack((self.roots(left), self.roots(right)))
        for one, other in np.unique(pairs[:, pairs[0] != pairs[1]], axis=1).T:
            first, second = sorted(int(self.roots(np.array([node]))[0]) for node in (one, other))
            self._parent[second] = first
            if first != second and second in self.reasons:
                self.reasons.setdefault(first, self.reasons[second])

    def fix(self, nodes: Nodes, reason: str) -> None:
        """None of these can be cut."""
        for root in np.unique(self.roots(nodes)):
            self.reasons.setdefault(int(root), reason)


class _Trace(TorchDispatchMode):
    """Watches operators and keeps for each tensor what its entries are."""

    def __init__(self) -> None:
        super().__init__()
        self.sets = _Sets()
        self._dims: dict[int, Dims] = {}
        self._alive: list[Tensor] = []  # so that no later tensor gets the same id
        self._weights: set[int] = set()

    def enter(self, tensor: Tensor, name: str) -> None:
        """A parameter or buffer: all its entries are nodes of their own."""
        self._set(tensor, [self.sets.new(size) for size in tensor.shape])
        self._weights.add(id(tensor))

    def dims(self, tensor: Tensor) -> Dims:
        """What the entries of `tensor` are, dimension by dimension."""
        return self._dims.get(id(tensor)) or [None] * tensor.dim()

    def fix(self, tensor: Tensor, reason: str) -> None:
        """Nothing of `tensor` can be cut."""
        self._fix(self.dims(tensor), reason)

    def _fix(self, dims: Iterable[Nodes | None], reason: str) -> None:
        for nodes in dims:
            if nodes is not None:
                self.sets.fix(nodes, reason)

    def _set(self, tensor: Tensor, dims: Dims) -> None:
        assert len(dims) == tensor.dim(), (dims, tensor.shape)
        self._dims[id(tensor)] = dims
        self._alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out the operator and follow it."""
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | dict(kwargs or {})
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        name = name.removesuffix("_") if func._schema.is_mutable else name
        outputs = [out for out in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(out, Tensor)]
        if outputs:
            rule = _RULES.get(name) or (_Trace.pointwise if torch.Tag.pointwise in func.tags else _Trace.unknown)
            given["__name"] = name
            found = rule(self, given, outputs)
            for out, dims in zip(outputs, found, strict=False):
                self._set(out, dims)
            if name in _VIEWS and id(given["self"]) in self._weights:
                self._weights.update(id(out) for out in outputs)
        return result

    def _join(self, left: Nodes | None, right: Nodes | None, why: str) -> Nodes | None:
        if left is None or right is None:
            self._fix((left, right), why)
            return None
        self.sets.unite(left, right)
        return left

    def unknown(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """An operator that is not known: nothing that goes in can be cut."""
        for tensor in _inputs(given):
            self.fix(tensor, f"it goes through the operator {given['__name']}, which cannot be followed")
        return [[None] * out.dim() for out in outputs]

    def pointwise(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Entry by entry, with small tensors stretched over large ones."""
        shape = outputs[0].shape
        found: Dims = [None] * len(shape)
        for dim, size in enumerate(shape):
            seen: list[Nodes | None] = []
            for tensor in _inputs(given):
                own = dim - len(shape) + tensor.dim()
                if own < 0:
                    continue
                nodes = self.dims(tensor)[own]
                if tensor.shape[own] == size:
                    seen.append(nodes)
                else:
                    self._fix([nodes], "it is stretched over others")
            if seen:
                found[dim] = seen[0]
                for other in seen[1:]:
                    found[dim] = self._join(found[dim], other, "it is combined with what cannot be cut, such as the input")
        return [found] + [[None] * out.dim() for out in outputs[1:]]

    def uniform(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A tensor of zeros or the like: its entries are as good as any others."""
        return [[self.sets.new(size) for size in outputs[0].shape]]

    def reshape(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Neighbouring dimensions become one, one becomes several."""
        old = [(size, nodes) for size, nodes in zip(given["self"].shape, self.dims(given["self"]), strict=True) if size != 1]
        new = [dim for dim, size in enumerate(outputs[0].shape) if size != 1]
        found: Dims = [None] * outputs[0].dim()
        if 0 in outputs[0].shape:
            return self.unknown(given, outputs)
        while old and new:
            left, right = [old.pop(0)], [new.pop(0)]
            while (have := _product(n for n, _ in left)) != (want := _product(outputs[0].shape[d] for d in right)):
                if have < want:
                    left.append(old.pop(0))
                else:
                    right.append(new.pop(0))
            for dim, nodes in zip(right, self._split(self._merged(left), [outputs[0].shape[d] for d in right]), strict=True):
                found[dim] = nodes
        return [found]

    def _merged(self, parts: list[tuple[int, Nodes | None]]) -> Nodes | None:
        known = [number for number, (_, nodes) in enumerate(parts) if nodes is not None]
        if len(parts) == 1 or not known:
            return parts[0][1]
        if len(known) > 1:
            self._fix((nodes for _, nodes in parts), "two of its dimensions are made one")
            return None
        shape = [len(nodes) if nodes is not None else 1 for _, nodes in parts]
        nodes = parts[known[0]][1]
        assert nodes is not None
        return np.broadcast_to(nodes.reshape(shape), [size for size, _ in parts]).reshape(-1)

    def _split(self, nodes: Nodes | None, sizes: list[int]) -> Dims:
        if nodes is None or len(sizes) == 1:
            return [nodes] * len(sizes)
        found: Dims = [None] * len(sizes)
        table = self.sets.roots(nodes).reshape(sizes)
        for dim, size in enumerate(sizes):
            rows = np.moveaxis(table, dim, 0).reshape(size, -1)
            if (rows == rows[:, :1]).all():
                found[dim] = rows[:, 0]
                return found
        rows = table.reshape(sizes[0], -1)
        self.sets.unite(np.broadcast_to(rows[:, :1], rows.shape).reshape(-1), rows.reshape(-1))
        found[0] = rows[:, 0]
        return found

    def permute(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Dimensions change places."""
        dims = self.dims(given["self"])
        return [[dims[d] for d in given["dims"]]]

    def transpose(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Two dimensions change places; without numbers, the only two."""
        dims = list(self.dims(given["self"]))
        one, other = given.get("dim0", 0), given.get("dim1", len(dims) - 1)
        if dims:
            dims[one], dims[other] = dims[other], dims[one]
        return [dims]

    def expand(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Dimensions of one entry are stretched, new ones come first."""
        tensor, out = given["self"], outputs[0]
        dims = [None] * (out.dim() - tensor.dim()) + self.dims(tensor)
        sizes = [1] * (out.dim() - tensor.dim()) + list(tensor.shape)
        self._fix((d for d, old, new in zip(dims, sizes, out.shape, strict=True) if old != new), "it is stretched over others")
        return [[d if old == new else None for d, old, new in zip(dims, sizes, out.shape, strict=True)]]

    def unsqueeze(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A dimension of one entry comes in."""
        dims = list(self.dims(given["self"]))
        dims.insert(given["dim"] % outputs[0].dim(), None)
        return [dims]

    def slice(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A part of a dimension."""
        dims = list(self.dims(given["self"]))
        nodes = dims[given.get("dim", 0)]
        if nodes is not None:
            dims[given.get("dim", 0)] = nodes[given.get("start") : given.get("end") : given.get("step") or 1]
        return [dims]

    def split(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A dimension in several parts."""
        dim = given.get("dim", 0) % given["self"].dim()
        found, start = [], 0
        for out in outputs:
            dims = list(self.dims(given["self"]))
            nodes, end = dims[dim], start + out.shape[dim]
            dims[dim] = None if nodes is None else nodes[start:end]
            found.append(dims)
            start = end
        return found

    def select(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """One entry, or each by itself: the dimension is gone."""
        dims = list(self.dims(given["self"]))
        self._fix([dims.pop(given.get("dim", 0))], "single entries of it are taken by their number")
        return [list(dims) for _ in outputs]

    def cat(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """End to end along one dimension, entry by entry along the others."""
        tensors = [t for t in given["tensors"] if t.dim() == outputs[0].dim()]
        along = given.get("dim", 0) % outputs[0].dim()
        found = list(self.dims(tensors[0]))
        for tensor in tensors[1:]:
            for dim, nodes in enumerate(self.dims(tensor)):
                if dim != along:
                    found[dim] = self._join(found[dim], nodes, "it is combined with what cannot be cut, such as the input")
        pieces = [self.dims(t)[along] for t in tensors]
        if any(piece is not None for piece in pieces):
            whole = [self._stuck(t.shape[along]) if p is None else p for t, p in zip(tensors, pieces, strict=True)]
            found[along] = np.concatenate(whole)
        return [found]

    def _stuck(self, size: int) -> Nodes:
        nodes = self.sets.new(size)
        self.sets.fix(nodes, "it does not come from a layer")
        return nodes

    def stack(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Along a new dimension."""
        (dims, *_) = self.pointwise({"tensors": given["tensors"]}, [given["tensors"][0]])
        dims.insert(given.get("dim", 0) % outputs[0].dim(), None)
        return [dims]

    def pad(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Entries are added at the ends of the last dimensions."""
        dims = list(self.dims(given["self"]))
        for number, (old, new) in enumerate(zip(given["self"].shape, outputs[0].shape, strict=True)):
            if old != new:
                self._fix([dims[number]], "it is padded")
                dims[number] = None
        return [dims]

    def pool(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Positions are made fewer or more; channels stay."""
        kept = outputs[0].dim() - (1 if "1d" in given["__name"] else 3 if "3d" in given["__name"] else 2)
        dims = self.dims(given["self"])
        self._fix(dims[kept:], "it is pooled over")
        return [dims[:kept] + [None] * (out.dim() - kept) for out in outputs]

    def reduce(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A sum, mean, maximum, softmax or the like over some dimensions."""
        dims = list(self.dims(given["self"]))
        over = given.get("dim")
        numbers = range(len(dims)) if over is None or over == [] else [over] if isinstance(over, int) else over
        reduced = {number % len(dims) for number in numbers} if dims else set()
        self._fix((dims[d] for d in reduced), f"{given['__name'].strip('_')} runs over it")
        same = all(out.dim() == len(dims) for out in outputs)
        return [[None if d in reduced else n for d, n in enumerate(dims) if same or d not in reduced] for _ in outputs]

    def multiply(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A matrix product, with a bias or without; one factor has to be a weight for the sum to be cut."""
        left = given.get("mat1", given.get("batch1", given["self"]))
        right = given.get("mat2", given.get("batch2"))
        one, other = self.dims(left), self.dims(right)
        if {id(left), id(right)} & self._weights:
            self._join(one[-1], other[-2], "its input cannot be cut")
        else:
            self._fix((one[-1], other[-2]), "two activations are multiplied over it")
        batch = [self._join(a, b, "it is combined with what cannot be cut") for a, b in zip(one[:-2], other[:-2], strict=True)]
        found: Dims = [*batch, one[-2], other[-1]]
        if given["__name"] in ("addmm", "baddbmm"):
            self.pointwise({"bias": given["self"], "product": outputs[0]}, outputs) if self._put(outputs[0], found) else None
        return [found]

    def _put(self, tensor: Tensor, dims: Dims) -> bool:
        self._set(tensor, dims)
        return True

    def linear(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A linear layer seen as one operator."""
        dims, weight = self.dims(given["input"]), self.dims(given["weight"])
        self._join(dims[-1], weight[1], "its input cannot be cut")
        if given.get("bias") is not None:
            self._join(weight[0], self.dims(given["bias"])[0], "its bias cannot be cut")
        return [[*dims[:-1], weight[0]]]

    def convolution(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Input channels are the weight's second dimension, output channels its first, group by group."""
        if given["transposed"]:
            return self.unknown(given, outputs)
        dims, weight, groups = self.dims(given["input"]), self.dims(given["weight"]), given["groups"]
        rows = weight[0]
        if given.get("bias") is not None:
            rows = self._join(rows, self.dims(given["bias"])[0], "its bias cannot be cut")
        if groups == 1:
            self._join(dims[1], weight[1], "its input cannot be cut")
        elif rows is None or dims[1] is None:
            self._fix((rows, dims[1]), "the input of a grouped convolution cannot be cut")
        else:
            outgoing, incoming = rows.reshape(groups, -1), dims[1].reshape(groups, -1)
            for side in (outgoing, incoming):
                self.sets.unite(np.broadcast_to(outgoing[:, :1], side.shape).reshape(-1), side.reshape(-1))
        self._fix(dims[2:], "a convolution runs over it")
        return [[dims[0], rows, *[None] * (outputs[0].dim() - 2)]]

    def batch_norm(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Each channel by itself."""
        dims = list(self.dims(given["input"]))
        for name in _KEPT:
            if isinstance(given.get(name), Tensor):
                dims[1] = self._join(dims[1], self.dims(given[name])[0], "a batch norm's input cannot be cut")
        return [dims] + [[None] * out.dim() for out in outputs[1:]]

    def layer_norm(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """What it runs over cannot be cut: mean and variance of the rest would be others."""
        dims, count = list(self.dims(given["input"])), len(given["normalized_shape"])
        reason = "a layer norm runs over it, so what stays would no longer compute what it did"
        self._fix(dims[-count:], reason)
        for name in ("weight", "bias"):
            if isinstance(given.get(name), Tensor):
                self.fix(given[name], reason)
        return [dims[:-count] + [None] * count] + [[None] * out.dim() for out in outputs[1:]]

    def group_norm(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """All channels of a group go together."""
        dims = list(self.dims(given["input"]))
        for name in ("weight", "bias"):
            if isinstance(given.get(name), Tensor):
                dims[1] = self._join(dims[1], self.dims(given[name])[0], "a group norm's input cannot be cut")
        nodes = dims[1]
        self._fix(dims[2:], "a group norm runs over it")
        if nodes is not None:
            rows = nodes.reshape(given["group"], -1)
            self.sets.unite(np.broadcast_to(rows[:, :1], rows.shape).reshape(-1), rows.reshape(-1))
        return [dims] + [[None] * out.dim() for out in outputs[1:]]

    def embedding(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Rows are looked up by number, columns come out."""
        self.fix(given["indices"], "its entries are numbers of rows")
        return [[*[None] * given["indices"].dim(), self.dims(given["weight"])[1]]]

    def glu(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """The two halves of a dimension, entry by entry."""
        dims, dim = list(self.dims(given["self"])), given.get("dim", -1)
        nodes = dims[dim]
        if nodes is not None:
            half = len(nodes) // 2
            dims[dim] = self._join(nodes[:half], nodes[half:], "")
        return [dims]


def _inputs(given: Given) -> list[Tensor]:
    """All tensors that an operator was given."""
    return [leaf for leaf in tree_leaves(dict(given)) if isinstance(leaf, Tensor)]


def _product(sizes: Iterable[int]) -> int:
    return int(np.prod(list(sizes)))


_VIEWS = frozenset(
    ("t", "transpose", "view", "_unsafe_view", "permute", "unsqueeze", "squeeze", "expand", "slice", "select", "alias",
     "detach", "split", "split_with_sizes", "_to_copy", "clone")
)  # fmt: skip
_NAMES: dict[Callable[..., list[Dims]], str] = {
    _Trace.pointwise: "clone _to_copy alias detach lift_fresh native_dropout copy zeros_like ones_like full_like empty_like "
                      "rand_like randn_like bernoulli fill",
    _Trace.uniform: "zeros ones full empty new_zeros new_ones new_full new_empty",
    _Trace.reshape: "view _unsafe_view reshape _reshape_alias squeeze",
    _Trace.permute: "permute",
    _Trace.transpose: "t transpose",
    _Trace.expand: "expand",
    _Trace.unsqueeze: "unsqueeze",
    _Trace.slice: "slice",
    _Trace.split: "split split_with_sizes unsafe_split unsafe_split_with_sizes chunk",
    _Trace.select: "select unbind",
    _Trace.cat: "cat",
    _Trace.stack: "stack",
    _Trace.pad: "constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d",
    _Trace.pool: "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest1d "
                 "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_linear1d avg_pool1d",
    _Trace.reduce: "sum mean amax amin max min var std prod any all argmax argmin _softmax _log_softmax logsumexp cumsum "
                   "linalg_vector_norm norm sort topk var_mean",
    _Trace.multiply: "mm bmm addmm baddbmm",
    _Trace.linear: "linear",
    _Trace.convolution: "convolution",
    _Trace.batch_norm: "native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm _native_batch_norm_legit",
    _Trace.layer_norm: "native_layer_norm",
    _Trace.group_norm: "native_group_norm",
    _Trace.embedding: "embedding",
    _Trace.glu: "glu",
}  # fmt: skip
_RULES = {name: rule for rule, names in _NAMES.items() for name in names.split()}


class _Labelling:
    """Turns sets of nodes into labelled axes on the sites."""

    def __init__(self, layout: Layout, trace: _Trace, modules: Mapping[str, nn.Module]) -> None:
        self._layout = layout
        self._sets = trace.sets
        self._places: dict[tuple[str, str], Nodes] = {}
        for site in layout.sites:
            dims = trace.dims(modules[site.path].weight)  # type: ignore[arg-type]
            sides = {"output": 0 if site.kind == "norm" else site.output_dim}
            if site.kind in ("linear", "conv") and site.groups == 1:
                sides["input"] = 1
            for side, dim in sides.items():
                nodes = dims[dim] if dim < len(dims) else None
                if nodes is not None:
                    self._places[site.path, side] = trace.sets.roots(nodes)
        self._group: dict[int, int] = {}  # set -> number of its group
        self._unit: dict[int, int] = {}  # set -> its number among those of the group
        self._size: list[int] = []  # units per group
        self._count_groups()

    def _count_groups(self) -> None:
        """Sets that occur equally often at the same places are the units of one group, in order of appearance."""
        seen: dict[int, list[tuple[str, str, int]]] = {}
        for (path, side), roots in self._places.items():
            for root, count in zip(*np.unique(roots, return_counts=True), strict=True):
                seen.setdefault(int(root), []).append((path, side, int(count)))
        numbers: dict[tuple[tuple[str, str, int], ...], int] = {}
        for roots in self._places.values():
            for root in map(int, roots):
                if root not in self._group and root not in self._sets.reasons:
                    number = numbers.setdefault(tuple(seen[root]), len(numbers))
                    self._size += [0] * (number == len(self._size))
                    self._group[root], self._unit[root] = number, self._size[number]
                    self._size[number] += 1

    def layout(self) -> Layout:
        """The layout with its axes."""
        usable = {number for number in range(len(self._size)) if self._trouble(number) is None}
        names = self._names(usable)
        sites = []
        for site in self._layout.sites:
            axes = {side: self._axis(self._places.get((site.path, side)), names) for side in ("input", "output")}
            sites.append(replace(site, input_axis=axes["input"], output_axis=axes["output"]))
        return replace(self._layout, sites=tuple(sites), fixed=tuple(self._fixed(sites)))

    def _trouble(self, number: int) -> str | None:
        """Why the units of a group cannot be cut, None if they can."""
        where = [key for key, roots in self._places.items() if any(self._group.get(int(r)) == number for r in roots)]
        kinds = {site.path: site.kind for site in self._layout.sites}
        if not any(side == "input" for _, side in where):
            return "no layer reads it"
        if not any(side == "output" and kinds[path] != "norm" for path, side in where):
            return "no layer writes it"
        if self._size[number] < 2:
            return "all its entries hang together"
        if any(part is None for key in where for part in self._runs(self._places[key], number)):
            return _ORDER
        return None

    def _runs(self, roots: Nodes, only: int | None = None) -> list[Axis | None]:
        """The axes end to end along a dimension, labelled with their group's number; None for one in another order."""
        groups = np.array([self._group.get(int(root), -1) for root in roots])
        edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
        found: list[Axis | None] = []
        for start, end in pairwise(edges):
            number = int(groups[start])
            if only is not None and number != only:
                continue
            if number < 0:
                found.append(Axis("", end - start))
                continue
            units = np.array([self._unit[int(root)] for root in roots[start:end]])
            width = int((np.append(units, -1) != units[0]).argmax())
            block = np.repeat(np.arange(self._size[number]), width)
            fits = len(units) % len(block) == 0 and (units.reshape(-1, len(block)) == block).all()
            found.append(Axis(str(number), self._size[number], width, len(units) // len(block)) if fits else None)
        return found

    def _axis(self, roots: Nodes | None, names: Mapping[int, str]) -> Axis | None:
        if roots is None:
            return None
        groups = np.array([self._group.get(int(root), -1) for root in roots])
        parts: list[Axis] = []
        for number in dict.fromkeys(groups.tolist()):
            if number >= 0 and number not in names:
                groups[groups == number] = -1
        edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
        for start, end in pairwise(edges):
            number = int(groups[start])
            (part,) = self._runs(roots[start:end], number) if number >= 0 else [Axis("", end - start)]
            assert part is not None  # groups in several orders have no name
            parts.append(replace(part, label=names[number]) if number >= 0 else part)
        return _joined(parts)

    def _names(self, usable: set[int]) -> dict[int, str]:
        """A label for each group, from the first layer that writes it: `tower.block.branch.channels`."""
        names: dict[int, str] = {}
        for site in self._layout.sites:
            roots = self._places.get((site.path, "output"), np.array([], dtype=np.int64))
            for number in dict.fromkeys(self._group.get(int(root), -1) for root in roots):
                if number in usable and number not in names and site.kind != "norm":
                    names[number] = self._free(site, self._unit_of(number), set(names.values()))
        return names

    def _unit_of(self, number: int) -> str:
        """What a unit is: a channel where a convolution is involved, a head where every layer gives it several
        entries, else a neuron."""
        widths = []
        for site in self._layout.sites:
            for side in ("output", "input"):
                runs = self._runs(self._places.get((site.path, side), np.array([-1])), number)
                if runs and site.kind == "conv":
                    return "channels"
                widths += [part.width for part in runs if part is not None and site.kind != "norm"]
        return "heads" if min(widths) > 1 else "neurons"

    def _free(self, site: Site, unit: str, taken: set[str]) -> str:
        stem = site.name.rpartition(".")[0]
        label = f"{stem}.{unit}"
        number = 1
        while label in taken:
            number += 1
            label = f"{stem}.{number}.{unit}"
        return label

    def _fixed(self, sites: Sequence[Site]) -> Iterable[Fixed]:
        """The reasons for layers of which no output can be cut."""
        for site in sites:
            roots = self._places.get((site.path, "output"))
            if site.kind == "norm" or roots is None or site.output_axis is not None:
                continue
            reasons = [self._sets.reasons.get(int(root)) for root in roots]
            number = self._group.get(int(roots[0]), -1)
            reason = next((r for r in reasons if r), None) or (self._trouble(number) if number >= 0 else None)
            unit = "channels" if site.kind == "conv" else "neurons"
            yield Fixed(f"{site.name.rpartition('.')[0]}.{unit}", reason or _ORDER)

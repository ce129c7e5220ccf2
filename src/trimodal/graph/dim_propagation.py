"""What operators do to the entries of tensors: which entry of what comes out is which entry of what went in.

Every entry of every weight dimension is a node. `DimensionTrace` sees each operator that PyTorch carries out and keeps, for each
dimension of each tensor, an array with the node of each entry. Where two nodes turn out to be one (both sides of an
addition, the columns of a weight and what it is multiplied with) they are united; where an operator needs all entries
of a dimension they are fixed, with a reason. One method per kind of operator, and `_NAMES` says which operators it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trimodal.graph.disjoint_sets import DisjointSets, Nodes

Dims = list[Nodes | None]  # per dimension, the node of each entry; None where nothing can be cut
Given = Mapping[str, Any]

NORMALISED = ("weight", "bias", "running_mean", "running_var")
_COMBINED = "it is combined with what cannot be cut, such as the input"


class DimensionTrace(TorchDispatchMode):
    """Watches operators and keeps for each tensor what its entries are."""

    def __init__(self) -> None:
        super().__init__()
        self.sets = DisjointSets()
        self._dims: dict[int, Dims] = {}
        self._alive: list[Tensor] = []  # so that no later tensor gets the same id
        self._weights: set[int] = set()

    def add_parameter(self, tensor: Tensor, name: str) -> None:
        """A parameter or buffer of any shape: all its entries, dimension by dimension, are nodes of their own."""
        self._set_dims(tensor, [self.sets.add_nodes(size) for size in tensor.shape])
        self._weights.add(id(tensor))

    def dims_of(self, tensor: Tensor) -> Dims:
        """What the entries of `tensor` are: per dimension the nodes int64 (size,), or None. None for all where its shape is not
        known."""
        return self._dims.get(id(tensor)) or [None] * tensor.dim()

    def mark_tensor_uncuttable(self, tensor: Tensor, reason: str) -> None:
        """Nothing of `tensor`, of any shape, can be cut."""
        self._mark_dims_uncuttable(self.dims_of(tensor), reason)

    def _mark_dims_uncuttable(self, dims: Iterable[Nodes | None], reason: str) -> None:
        for nodes in dims:
            if nodes is not None:
                self.sets.mark_uncuttable(nodes, reason)

    def _set_dims(self, tensor: Tensor, dims: Dims) -> None:
        assert len(dims) == tensor.dim(), (dims, tensor.shape)
        self._dims[id(tensor)] = dims
        self._alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out the operator and follow it."""
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | dict(kwargs or {})
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        name = name.removesuffix("_") if func._schema.is_mutable else name
        outputs = [out for out in (result if isinstance(result, tuple | list) else [result]) if isinstance(out, Tensor)]
        if outputs:
            pointwise = torch.Tag.pointwise in func.tags
            rule = _RULES.get(name) or (DimensionTrace.propagate_pointwise if pointwise else DimensionTrace.propagate_unknown)
            given["__name"] = name
            found = rule(self, given, outputs)
            for out, dims in zip(outputs, found, strict=False):
                self._set_dims(out, dims)
            if name in _VIEWS and id(given["self"]) in self._weights:
                self._weights.update(id(out) for out in outputs)
        return result

    def _join_nodes(self, left: Nodes | None, right: Nodes | None, why: str) -> Nodes | None:
        if left is None or right is None:
            self._mark_dims_uncuttable((left, right), why)
            return None
        self.sets.unite_nodes(left, right)
        return left

    def propagate_unknown(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """An operator that is not known: nothing that goes in can be cut, whatever its shape."""
        for tensor in _input_tensors_of(given):
            self.mark_tensor_uncuttable(tensor, f"it goes through the operator {given['__name']}, which cannot be followed")
        return [[None] * out.dim() for out in outputs]

    def propagate_pointwise(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Entry by entry: (…, n) and (n,) or (1,) → (…, n), small tensors stretched over large ones."""
        shape = outputs[0].shape
        found: Dims = [None] * len(shape)
        for dim, size in enumerate(shape):
            seen: list[Nodes | None] = []
            for tensor in _input_tensors_of(given):
                own = dim - len(shape) + tensor.dim()
                if own < 0:
                    continue
                nodes = self.dims_of(tensor)[own]
                if tensor.shape[own] == size:
                    seen.append(nodes)
                else:
                    self._mark_dims_uncuttable([nodes], "it is stretched over others")
            if seen:
                found[dim] = seen[0]
                for other in seen[1:]:
                    found[dim] = self._join_nodes(found[dim], other, _COMBINED)
        return [found] + [[None] * out.dim() for out in outputs[1:]]

    def propagate_uniform(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A tensor of any shape full of zeros or the like: its entries are as good as any others."""
        return [[self.sets.add_nodes(size) for size in outputs[0].shape]]

    def propagate_reshape(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Neighbouring dimensions become one, one becomes several: (a, b·c) → (a·b, c)."""
        sized = zip(given["self"].shape, self.dims_of(given["self"]), strict=True)
        old = [(size, nodes) for size, nodes in sized if size != 1]
        new = [dim for dim, size in enumerate(outputs[0].shape) if size != 1]
        found: Dims = [None] * outputs[0].dim()
        if 0 in outputs[0].shape:
            return self.propagate_unknown(given, outputs)
        while old and new:
            left, right = [old.pop(0)], [new.pop(0)]
            while (have := _multiply_sizes(n for n, _ in left)) != (want := _multiply_sizes(outputs[0].shape[d] for d in right)):
                if have < want:
                    left.append(old.pop(0))
                else:
                    right.append(new.pop(0))
            parts = self._split_dim(self._merge_dims(left), [outputs[0].shape[d] for d in right])
            for dim, nodes in zip(right, parts, strict=True):
                found[dim] = nodes
        return [found]

    def _merge_dims(self, parts: list[tuple[int, Nodes | None]]) -> Nodes | None:
        known = [number for number, (_, nodes) in enumerate(parts) if nodes is not None]
        if len(parts) == 1 or not known:
            return parts[0][1]
        if len(known) > 1:
            self._mark_dims_uncuttable((nodes for _, nodes in parts), "two of its dimensions are made one")
            return None
        shape = [len(nodes) if nodes is not None else 1 for _, nodes in parts]
        nodes = parts[known[0]][1]
        assert nodes is not None
        return np.broadcast_to(nodes.reshape(shape), [size for size, _ in parts]).reshape(-1)

    def _split_dim(self, nodes: Nodes | None, sizes: list[int]) -> Dims:
        if nodes is None or len(sizes) == 1:
            return [nodes] * len(sizes)
        found: Dims = [None] * len(sizes)
        table = self.sets.find_roots(nodes).reshape(sizes)
        for dim, size in enumerate(sizes):
            rows = np.moveaxis(table, dim, 0).reshape(size, -1)
            if (rows == rows[:, :1]).all():
                found[dim] = rows[:, 0]
                return found
        rows = table.reshape(sizes[0], -1)
        self.sets.unite_nodes(np.broadcast_to(rows[:, :1], rows.shape).reshape(-1), rows.reshape(-1))
        found[0] = rows[:, 0]
        return found

    def propagate_permute(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Dimensions change places: (a, b, c) → (c, a, b)."""
        dims = self.dims_of(given["self"])
        return [[dims[d] for d in given["dims"]]]

    def propagate_transpose(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Two dimensions change places, (a, b) → (b, a); without numbers, the only two."""
        dims = list(self.dims_of(given["self"]))
        one, other = given.get("dim0", 0), given.get("dim1", len(dims) - 1)
        if dims:
            dims[one], dims[other] = dims[other], dims[one]
        return [dims]

    def propagate_expand(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Dimensions of one entry are stretched, new ones come first: (a, 1) → (n, a, b)."""
        tensor, out = given["self"], outputs[0]
        dims = [None] * (out.dim() - tensor.dim()) + self.dims_of(tensor)
        sizes = [1] * (out.dim() - tensor.dim()) + list(tensor.shape)
        stretched = [d for d, old, new in zip(dims, sizes, out.shape, strict=True) if old != new]
        self._mark_dims_uncuttable(stretched, "it is stretched over others")
        return [[d if old == new else None for d, old, new in zip(dims, sizes, out.shape, strict=True)]]

    def propagate_unsqueeze(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A dimension of one entry comes in: (a, b) → (a, 1, b)."""
        dims = list(self.dims_of(given["self"]))
        dims.insert(given["dim"] % outputs[0].dim(), None)
        return [dims]

    def propagate_slice(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A part of a dimension: (a, n) → (a, m)."""
        dims = list(self.dims_of(given["self"]))
        nodes = dims[given.get("dim", 0)]
        if nodes is not None:
            dims[given.get("dim", 0)] = nodes[given.get("start") : given.get("end") : given.get("step") or 1]
        return [dims]

    def propagate_split(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A dimension in several parts: (a, n) → (a, m), (a, n−m)."""
        dim = given.get("dim", 0) % given["self"].dim()
        found, start = [], 0
        for out in outputs:
            dims = list(self.dims_of(given["self"]))
            nodes, end = dims[dim], start + out.shape[dim]
            dims[dim] = None if nodes is None else nodes[start:end]
            found.append(dims)
            start = end
        return found

    def propagate_select(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """One entry, or each by itself: the dimension is gone, (a, n) → (a,)."""
        dims = list(self.dims_of(given["self"]))
        self._mark_dims_uncuttable([dims.pop(given.get("dim", 0))], "single entries of it are taken by their number")
        return [list(dims) for _ in outputs]

    def propagate_cat(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """End to end along one dimension, entry by entry along the others: (a, m), (a, n) → (a, m+n)."""
        tensors = [t for t in given["tensors"] if t.dim() == outputs[0].dim()]
        along = given.get("dim", 0) % outputs[0].dim()
        found = list(self.dims_of(tensors[0]))
        for tensor in tensors[1:]:
            for dim, nodes in enumerate(self.dims_of(tensor)):
                if dim != along:
                    found[dim] = self._join_nodes(found[dim], nodes, _COMBINED)
        pieces = [self.dims_of(t)[along] for t in tensors]
        if any(piece is not None for piece in pieces):
            whole = [self._add_uncuttable_nodes(t.shape[along]) if p is None else p for t, p in zip(tensors, pieces, strict=True)]
            found[along] = np.concatenate(whole)
        return [found]

    def _add_uncuttable_nodes(self, size: int) -> Nodes:
        nodes = self.sets.add_nodes(size)
        self.sets.mark_uncuttable(nodes, "it does not come from a layer")
        return nodes

    def propagate_stack(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Along a new dimension: (a, b) twice → (2, a, b)."""
        (dims, *_) = self.propagate_pointwise({"tensors": given["tensors"]}, [given["tensors"][0]])
        dims.insert(given.get("dim", 0) % outputs[0].dim(), None)
        return [dims]

    def propagate_pad(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Entries are added at the ends of the last dimensions: (a, n) → (a, n+k)."""
        dims = list(self.dims_of(given["self"]))
        for number, (old, new) in enumerate(zip(given["self"].shape, outputs[0].shape, strict=True)):
            if old != new:
                self._mark_dims_uncuttable([dims[number]], "it is padded")
                dims[number] = None
        return [dims]

    def propagate_pool(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Positions are made fewer or more; channels stay: (batch, channels, n) → (batch, channels, m)."""
        kept = outputs[0].dim() - (1 if "1d" in given["__name"] else 3 if "3d" in given["__name"] else 2)
        dims = self.dims_of(given["self"])
        self._mark_dims_uncuttable(dims[kept:], "it is pooled over")
        return [dims[:kept] + [None] * (out.dim() - kept) for out in outputs]

    def propagate_reduce(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A sum, mean, maximum, softmax or the like over some dimensions: (a, n) → (a,), (a, 1) or (a, n)."""
        dims = list(self.dims_of(given["self"]))
        over = given.get("dim")
        numbers = range(len(dims)) if over is None or over == [] else [over] if isinstance(over, int) else over
        reduced = {number % len(dims) for number in numbers} if dims else set()
        self._mark_dims_uncuttable((dims[d] for d in reduced), f"{given['__name'].strip('_')} runs over it")
        same = all(out.dim() == len(dims) for out in outputs)
        return [[None if d in reduced else n for d, n in enumerate(dims) if same or d not in reduced] for _ in outputs]

    def propagate_matmul(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A matrix product (…, a, n) · (…, n, b), with a bias or without; one factor has to be a weight for the sum to be cut."""
        left = given.get("mat1", given.get("batch1", given["self"]))
        right = given.get("mat2", given.get("batch2"))
        one, other = self.dims_of(left), self.dims_of(right)
        if {id(left), id(right)} & self._weights:
            self._join_nodes(one[-1], other[-2], "its input cannot be cut")
        else:
            self._mark_dims_uncuttable((one[-1], other[-2]), "two activations are multiplied over it")
        batch = [self._join_nodes(a, b, _COMBINED) for a, b in zip(one[:-2], other[:-2], strict=True)]
        found: Dims = [*batch, one[-2], other[-1]]
        if given["__name"] in ("addmm", "baddbmm"):
            self._set_dims(outputs[0], found)
            return self.propagate_pointwise({"bias": given["self"], "product": outputs[0]}, outputs)
        return [found]

    def propagate_linear(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """A linear layer seen as one operator: x (…, n), weight (m, n) → (…, m)."""
        dims, weight = self.dims_of(given["input"]), self.dims_of(given["weight"])
        self._join_nodes(dims[-1], weight[1], "its input cannot be cut")
        if given.get("bias") is not None:
            self._join_nodes(weight[0], self.dims_of(given["bias"])[0], "its bias cannot be cut")
        return [[*dims[:-1], weight[0]]]

    def propagate_convolution(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """x (batch, channels, …): input channels are the weight's second dimension, output channels its first, group by group; of a
        transposed one the other way round."""
        dims, weight, groups = self.dims_of(given["input"]), self.dims_of(given["weight"]), given["groups"]
        if given["transposed"] and groups > 1:
            return self.propagate_unknown(given, outputs)
        if given["transposed"]:
            weight = [weight[1], weight[0], *weight[2:]]
        rows = weight[0]
        if given.get("bias") is not None:
            rows = self._join_nodes(rows, self.dims_of(given["bias"])[0], "its bias cannot be cut")
        if groups == 1:
            self._join_nodes(dims[1], weight[1], "its input cannot be cut")
        elif rows is None or dims[1] is None:
            self._mark_dims_uncuttable((rows, dims[1]), "the input of a grouped convolution cannot be cut")
        else:
            outgoing, incoming = rows.reshape(groups, -1), dims[1].reshape(groups, -1)
            for side in (outgoing, incoming):
                self.sets.unite_nodes(np.broadcast_to(outgoing[:, :1], side.shape).reshape(-1), side.reshape(-1))
        self._mark_dims_uncuttable(dims[2:], "a convolution runs over it")
        return [[dims[0], rows, *[None] * (outputs[0].dim() - 2)]]

    def propagate_batch_norm(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Each channel of x (batch, channels, …) by itself."""
        dims = list(self.dims_of(given["input"]))
        for name in NORMALISED:
            if isinstance(given.get(name), Tensor):
                dims[1] = self._join_nodes(dims[1], self.dims_of(given[name])[0], "a batch norm's input cannot be cut")
        return [dims] + [[None] * out.dim() for out in outputs[1:]]

    def propagate_layer_norm(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """What it runs over, the last of (…, n), cannot be cut: mean and variance of the rest would be others."""
        dims, count = list(self.dims_of(given["input"])), len(given["normalized_shape"])
        reason = "a layer norm runs over it, so what stays would no longer compute what it did"
        self._mark_dims_uncuttable(dims[-count:], reason)
        for name in ("weight", "bias"):
            if isinstance(given.get(name), Tensor):
                self.mark_tensor_uncuttable(given[name], reason)
        return [dims[:-count] + [None] * count] + [[None] * out.dim() for out in outputs[1:]]

    def propagate_group_norm(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """All channels of a group of x (batch, channels, …) go together."""
        dims = list(self.dims_of(given["input"]))
        for name in ("weight", "bias"):
            if isinstance(given.get(name), Tensor):
                dims[1] = self._join_nodes(dims[1], self.dims_of(given[name])[0], "a group norm's input cannot be cut")
        nodes = dims[1]
        self._mark_dims_uncuttable(dims[2:], "a group norm runs over it")
        if nodes is not None:
            rows = nodes.reshape(given["group"], -1)
            self.sets.unite_nodes(np.broadcast_to(rows[:, :1], rows.shape).reshape(-1), rows.reshape(-1))
        return [dims] + [[None] * out.dim() for out in outputs[1:]]

    def propagate_embedding(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """Rows of the weight (rows, columns) are looked up by number: int64 (…, n) → (…, n, columns)."""
        self.mark_tensor_uncuttable(given["indices"], "its entries are numbers of rows")
        return [[*[None] * given["indices"].dim(), self.dims_of(given["weight"])[1]]]

    def propagate_glu(self, given: Given, outputs: list[Tensor]) -> list[Dims]:
        """The two halves of a dimension, entry by entry: (…, 2·n) → (…, n)."""
        dims, dim = list(self.dims_of(given["self"])), given.get("dim", -1)
        nodes = dims[dim]
        if nodes is not None:
            half = len(nodes) // 2
            dims[dim] = self._join_nodes(nodes[:half], nodes[half:], "")
        return [dims]


def _input_tensors_of(given: Given) -> list[Tensor]:
    """All tensors that an operator was given."""
    return [leaf for leaf in tree_leaves(dict(given)) if isinstance(leaf, Tensor)]


def _multiply_sizes(sizes: Iterable[int]) -> int:
    return int(np.prod(list(sizes)))


_VIEWS = frozenset(
    ("t", "transpose", "view", "_unsafe_view", "permute", "unsqueeze", "squeeze", "expand", "slice", "select", "alias",
     "detach", "split", "split_with_sizes", "_to_copy", "clone")
)  # fmt: skip
_NAMES: dict[Callable[..., list[Dims]], str] = {
    DimensionTrace.propagate_pointwise: (
        "clone _to_copy alias detach lift_fresh native_dropout copy zeros_like ones_like full_like empty_like "
        "rand_like randn_like bernoulli fill"
    ),
    DimensionTrace.propagate_uniform: "zeros ones full empty new_zeros new_ones new_full new_empty",
    DimensionTrace.propagate_reshape: "view _unsafe_view reshape _reshape_alias squeeze",
    DimensionTrace.propagate_permute: "permute",
    DimensionTrace.propagate_transpose: "t transpose",
    DimensionTrace.propagate_expand: "expand",
    DimensionTrace.propagate_unsqueeze: "unsqueeze",
    DimensionTrace.propagate_slice: "slice",
    DimensionTrace.propagate_split: "split split_with_sizes unsafe_split unsafe_split_with_sizes chunk",
    DimensionTrace.propagate_select: "select unbind",
    DimensionTrace.propagate_cat: "cat",
    DimensionTrace.propagate_stack: "stack",
    DimensionTrace.propagate_pad: (
        "constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"
    ),
    DimensionTrace.propagate_pool: (
        "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest1d "
        "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_linear1d avg_pool1d"
    ),
    DimensionTrace.propagate_reduce: (
        "sum mean amax amin max min var std prod any all argmax argmin _softmax _safe_softmax _log_softmax "
        "logsumexp cumsum linalg_vector_norm norm sort topk var_mean"
    ),
    DimensionTrace.propagate_matmul: "mm bmm addmm baddbmm",
    DimensionTrace.propagate_linear: "linear",
    DimensionTrace.propagate_convolution: "convolution",
    DimensionTrace.propagate_batch_norm: (
        "native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm _native_batch_norm_legit"
    ),
    DimensionTrace.propagate_layer_norm: "native_layer_norm",
    DimensionTrace.propagate_group_norm: "native_group_norm",
    DimensionTrace.propagate_embedding: "embedding",
    DimensionTrace.propagate_glu: "glu",
}  # fmt: skip
_RULES = {name: rule for rule, names in _NAMES.items() for name in names.split()}

"""Where: axes, sites and towers, of which the layout of a model is made (`core/layout.py`).

A *site* is one module with a weight (a linear layer, a convolution, an embedding, a norm). An *axis* names one
dimension of that weight. Dimensions that carry one label must be cut together. Two layers show the idea:

    up    weight (12, 4)   output axis  image.0.neurons, 12 units
    down  weight (4, 12)   input axis   image.0.neurons, 12 units

Removing neuron 5 removes row 5 of `up` (and entry 5 of its bias) and column 5 of `down`. With attention heads of
width 8 the same cut removes eight rows each of query, key and value, and eight columns of the output projection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trimodal.core.storage import BASE, TYPE_BYTES, packed_columns, stored_bytes, tensor_specs_of

Kind = Literal["linear", "conv", "embedding", "norm", "experts"]
_COUNT_BYTES = 8  # of num_batches_tracked
_WIDTH = ".width"
ROUTER = "router"


def is_width(label: str) -> bool:
    """Whether the units of `label` are the dimensions of a tower's stream: `image.width`."""
    return label.endswith(_WIDTH)


def width_label(tower: str) -> str:
    """The label of the dimensions of a tower's stream."""
    return f"{tower}{_WIDTH}"


@dataclass(frozen=True)
class Axis:
    """One dimension of one weight: `repeats` runs of `units` units of `width` neighbouring entries each.

    `label` ends in what a unit is: `image.3.heads`, `image.3.neurons`, `model.3.channels`.
    `repeats` is 3 for the output of a fused query-key-value projection, else 1. Where layers are joined (`torch.cat`)
    one dimension is several axes end to end: the first, and `then` those that follow it. A label of `""` marks
    entries that nobody can cut.
    """

    label: str
    units: int
    width: int = 1
    repeats: int = 1
    then: tuple[Axis, ...] = ()

    @property
    def parts(self) -> tuple[Axis, ...]:
        """The axes that lie end to end along the dimension, mostly this one alone."""
        return (replace(self, then=()), *self.then) if self.then else (self,)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels found along the dimension."""
        return tuple(dict.fromkeys(part.label for part in self.parts if part.label))

    @property
    def size(self) -> int:
        """Length of the dimension in entries."""
        return sum(part.repeats * part.units * part.width for part in self.parts)

    def units_of(self, label: str) -> int:
        """How many units `label` has, 0 if the dimension does not carry it."""
        return next((part.units for part in self.parts if part.label == label), 0)

    def entry_indices(self, units: Sequence[int], label: str | None = None) -> list[int]:
        """Indices of the dimension's entries that belong to these `units` of `label`, in ascending order.

        Without `label` it is that of the first axis.
        """
        return self._select_entries(units, self.label if label is None else label, others=False)

    def kept_entry_indices(self, kept: Sequence[int], label: str) -> list[int]:
        """Indices of the entries that stay when only the `kept` units of `label` do: theirs and those of other labels."""
        return self._select_entries(kept, label, others=True)

    def _select_entries(self, units: Sequence[int], label: str, others: bool) -> list[int]:
        found, start = [], 0
        for part in self.parts:
            chosen = units if part.label == label else range(part.units) if others else ()
            found += [
                start + (run * part.units + unit) * part.width + i
                for run in range(part.repeats)
                for unit in chosen
                for i in range(part.width)
            ]
            start += part.size
        return found

    def cut_units(self, kept: Sequence[int], label: str | None = None) -> Axis:
        """The same axis with only the `kept` units of `label`, without one that of the first axis."""
        name = self.label if label is None else label
        first, *rest = (replace(part, units=len(kept)) if part.label == name else part for part in self.parts)
        return replace(first, then=tuple(rest))


@dataclass(frozen=True)
class Site:
    """One module with a weight, and what is known of it without running the model.

    `shape` is the weight's own shape: out × in for a linear layer, out × in/groups × kernel for a convolution,
    rows × width for an embedding, (width,) for a norm. `branch` tells apart two sites of one role in one block
    (`cross` attention beside self-attention). `groups` is a convolution's, or the number of experts in a fused weight, whose rows are
    those of one expert after the other. `tied` lists further module paths that use
    the very same weight. An embedding has an `input_axis`, along the same dimension as its `output_axis`, where all of
    those are linear layers that read the stream it writes to, or further embeddings into it; `tied_alike` says that all are such
    embeddings.
    `running`: a batch norm that keeps a running mean and variance beside its weight.
    `elsewhere` is the name of a parameter or buffer that is the very same weight and stands in no layer, empty if none does:
    whoever reads it there would not see what became of the layer's.
    `own_forward`: its class computes in a way of its own, so no other kind of module can take its place.
    `stored` is the kind of storage of the weight at the moment (see `core/storage.py`), or `shared` where it has none of
    its own but uses that of an earlier block; `stored_bytes` counts weight and bias with everything that belongs to them.
    `storage` are the options of that kind, and `table`, what a codebook's numbers are called, where a plan has made them known.
    """

    path: str
    tower: str
    block: int | None
    role: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str = "float32"
    bias: bool = False
    branch: str = ""
    input_axis: Axis | None = None
    output_axis: Axis | None = None
    groups: int = 1
    tied: tuple[str, ...] = ()
    tied_alike: bool = False
    elsewhere: str = ""
    own_forward: bool = False
    running: bool = False
    stored: str = "dense"
    stored_bytes: int = 0
    storage: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """`tower.block.branch.role`, without the parts that this site has not; what patterns match."""
        parts = (self.tower, "" if self.block is None else str(self.block), self.branch, self.role)
        return ".".join(part for part in parts if part)

    @property
    def stream(self) -> str:
        """The stream whose tokens it works on, as families number them: its tower, or for keys and values of a
        cross-attention `tower.cross`."""
        return f"{self.tower}.cross" if self.branch == "cross" and self.role in ("key", "value") else self.tower

    @property
    def is_read_again(self) -> bool:
        """Whether it is an embedding whose weight linear layers use along the same dimension, to read the stream: the first of
        `tied` is one."""
        return self.kind == "embedding" and bool(self.tied) and self.input_axis is not None

    @property
    def goes_with_tied(self) -> bool:
        """Whether all that use its weight use it along the dimension of one stream, so that it can be cut."""
        return self.is_read_again or self.tied_alike

    @property
    def is_grouped(self) -> bool:
        """Whether its rows read several inputs, group by group: a convolution in groups, fused experts."""
        return self.groups > 1 or self.kind == "experts"

    @property
    def output_dim(self) -> int:
        """The dimension of the weight that its output runs along."""
        return 1 if self.kind == "embedding" else 0

    @property
    def rows(self) -> int:
        """Rows of the weight seen as a matrix."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Columns of the weight seen as a matrix; a convolution's kernel is flattened into them."""
        return math.prod(self.shape[1:])

    @property
    def kept_weights(self) -> int:
        """Weights that are not pruned: of a `sparse` site those that its bytes speak of, of any other all."""
        if self.stored != "sparse":
            return math.prod(self.shape)
        mask = self.rows * packed_columns(self.columns, 1)
        return (self.stored_bytes - self.bias_bytes - mask) // TYPE_BYTES[self.dtype]

    @property
    def bias_bytes(self) -> int:
        """Bytes of the bias, kept in the site's own dtype."""
        width = self.shape[self.output_dim] if self.kind != "norm" else self.shape[0]
        return width * TYPE_BYTES[self.dtype] if self.bias else 0

    def cut_units(self, label: str, kept: Sequence[int]) -> Site:
        """The same site, dense, with only the `kept` units of `label` on the dimensions that carry it.

        The output of a grouped convolution is cut by whole groups only.
        """
        shape = list(self.shape)
        axes: dict[str, Any] = {}
        for key, dim in (("output_axis", self.output_dim), ("input_axis", 1)):
            axis: Axis | None = getattr(self, key)
            if axis is not None and label in axis.labels:
                axes[key] = axis.cut_units(kept, label)
                shape[dim] = axes[key].size
        cut_groups = self.kind == "conv" and self.groups > 1
        groups = self.groups * shape[0] // self.shape[0] if cut_groups else self.groups
        cut = replace(self, shape=tuple(shape), groups=groups, **axes)
        return replace(cut, stored_bytes=cut.dense_bytes)

    @property
    def running_bytes(self) -> int:
        """Bytes of a batch norm's running statistics and of its count of batches."""
        return 2 * self.shape[0] * TYPE_BYTES[self.dtype] + _COUNT_BYTES if self.running else 0

    def reads_label(self, label: str) -> bool:
        """Whether its input carries `label`."""
        return self.input_axis is not None and label in self.input_axis.labels

    def writes_label(self, label: str) -> bool:
        """Whether its output carries `label`."""
        return self.output_axis is not None and label in self.output_axis.labels

    def unit_columns(self, label: str) -> list[list[int]]:
        """The columns of the weight, seen as a matrix, that read each unit of `label`."""
        axis, kernel = self.input_axis, math.prod(self.shape[2:])
        if axis is None:
            return []
        entries = (axis.entry_indices([unit], label) for unit in range(axis.units_of(label)))
        return [[entry * kernel + place for entry in unit for place in range(kernel)] for unit in entries]

    def store_as(self, kind: str, options: Mapping[str, Any], table: str = "k-means") -> Site:
        """The same site with its weight kept as `kind` with `options`, see `core/storage.py`; `table` names a codebook's numbers."""
        total = stored_bytes(kind, options) + self.bias_bytes + self.running_bytes
        return replace(self, stored=kind, stored_bytes=total, storage={**options, "table": table})

    def split_into_factors(self, kind: str, options: Mapping[str, Any]) -> tuple[Site, ...]:
        """The sites `first`, `second` and so on that take its place when its weight is kept as `kind`, one of `FACTORED`.

        The first has the input's axis, the last the output's and the bias; those between the outer ones of `cp` are
        depthwise. The `base` of `residual` has both axes.
        """
        parts = []
        specs = tensor_specs_of(kind, options)
        first, *_, last = specs
        for name, spec in specs.items():
            inner = kind == "cp" and name not in (first, last)
            part = replace(
                self, path=f"{self.path}.{name}", branch=f"{self.branch}.{name}".strip("."), shape=spec.shape,
                kind="linear" if self.kind == "embedding" and name == last else self.kind,
                bias=self.bias and name == last,
                input_axis=self.input_axis if name in (first, BASE) and self.kind != "embedding" else None,
                output_axis=self.output_axis if name == last or (kind == "residual" and name != first) else None,
                groups=spec.shape[0] if inner else self.groups,
            )  # fmt: skip
            parts.append(replace(part, stored_bytes=part.dense_bytes))
        return tuple(parts)

    @property
    def dense_bytes(self) -> int:
        """Bytes of weight, bias and running statistics when all are kept as plain tensors."""
        return math.prod(self.shape) * TYPE_BYTES[self.dtype] + self.bias_bytes + self.running_bytes


@dataclass(frozen=True)
class Tower:
    """One part of the model that serves one modality: `image`, `audio`, `text`, or `fusion` for where they meet.

    `blocks` are the dotted paths of its repeated blocks in running order; `prefixes` the dotted paths of the
    modules that belong to it, blocks or not.

    `whole_tokens` is the reason why its tokens cannot be merged, empty if they can. Then the first `protected` of them
    must stay what they are, and `restored` says that what follows the blocks needs as many as came in.

    `whole_reading` is the reason why a decoder must read all of its tokens, empty if it need not. Then `projector` is the path of
    the module that makes of them what the decoder at the path `reader` reads, in the place of the id that the configuration calls
    `placeholder`; of one item of the usual size so many are `handed` over, 0 if nobody knows.

    `whole_blocks` is the reason why none of its blocks can be removed, empty if they can. Then `counted` is the
    attribute of its configuration that says how many there are, `read_by` the one that says by number after which
    blocks its states are read, if not after the last, and `numbers` says which of the bare architecture's blocks are
    left, empty for all; it is no part of what two towers are compared by, as only the run decides it.
    """

    name: str
    modality: str
    blocks: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    whole_tokens: str = "nobody has declared how its tokens could be merged"
    protected: int = 0
    restored: bool = False
    whole_reading: str = "no decoder reads its tokens in the place of placeholders"
    projector: str = ""
    reader: str = ""
    placeholder: str = ""
    handed: int = 0
    whole_blocks: str = "nobody has declared that its blocks only pass on what they make to one another"
    counted: str = ""
    read_by: str = ""
    numbers: tuple[int, ...] = field(default=(), compare=False)

    @property
    def origins(self) -> tuple[int, ...]:
        """The number that each block has in the bare architecture."""
        return self.numbers or tuple(range(len(self.blocks)))


Folding = Literal["norm", "affine", "linear", "scale", "twin", "idle"]


@dataclass(frozen=True)
class Fold:
    """A layer that neighbours can take over exactly or that never runs, or with a `reason` one that has to stay.

    `what` is folded: a batch `norm` into the layer before it, the `affine` part of a norm into the linear layers that
    read it, a `linear` layer into the linear layer that reads it, a `scale` per channel into the linear layer before
    it, or a `twin`, a tensor that is stored twice. An `idle` layer was never seen to run. `path`
    goes and the layers `into` take it over, of an idle one none; of a twin both are names of tensors. A norm multiplies by its weight plus
    `offset`; `epsilon` is a batch norm's. `error` is ‖Δy‖/‖y‖ as measured when it was found, `tensor_bytes` what a
    tensor takes that stands at no site.
    """

    what: Folding
    path: str
    into: tuple[str, ...] = ()
    offset: float = 0.0
    epsilon: float = 0.0
    error: float = 0.0
    reason: str = ""
    tensor_bytes: int = 0

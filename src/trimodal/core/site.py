"""Where: axes, sites, towers, and the layout of a model made of them.

A *site* is one module with a weight (a linear layer, a convolution, an embedding, a norm). An *axis* names one
dimension of that weight. Dimensions that carry one label must be cut together. Two layers show the idea:

    up    weight (12, 4)   output axis  image.0.neurons, 12 units
    down  weight (4, 12)   input axis   image.0.neurons, 12 units

Removing neuron 5 removes row 5 of `up` (and entry 5 of its bias) and column 5 of `down`. With attention heads of
width 8 the same cut removes eight rows each of query, key and value, and eight columns of the output projection.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from trimodal.core.storage import TYPE_BYTES, packed_columns

Kind = Literal["linear", "conv", "embedding", "norm"]


@dataclass(frozen=True)
class Axis:
    """One dimension of one weight: `repeats` runs of `units` units of `width` neighbouring entries each.

    `label` ends in what a unit is: `image.3.heads`, `image.3.neurons`, `model.3.channels`.
    `repeats` is 3 for the output of a fused query-key-value projection, else 1.
    """

    label: str
    units: int
    width: int = 1
    repeats: int = 1

    @property
    def size(self) -> int:
        """Length of the dimension in entries."""
        return self.repeats * self.units * self.width

    def entries(self, kept: Sequence[int]) -> list[int]:
        """Indices of the dimension's entries that belong to the `kept` units, in ascending order."""
        return [
            (run * self.units + unit) * self.width + i
            for run in range(self.repeats)
            for unit in kept
            for i in range(self.width)
        ]

    def cut(self, kept: Sequence[int]) -> Axis:
        """The same axis with only the `kept` units."""
        return replace(self, units=len(kept))


@dataclass(frozen=True)
class Site:
    """One module with a weight, and what is known of it without running the model.

    `shape` is the weight's own shape: out × in for a linear layer, out × in/groups × kernel for a convolution,
    rows × width for an embedding, (width,) for a norm. `branch` tells apart two sites of one role in one block
    (`cross` attention beside self-attention). `groups` is a convolution's. `tied` lists further module paths that use
    the very same weight.
    `own_forward`: its class computes in a way of its own, so no other kind of module can take its place.
    `stored` is the kind of storage of the weight at the moment (see `core/storage.py`), `stored_bytes` counts weight and
    bias with everything that belongs to them.
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
    own_forward: bool = False
    stored: str = "dense"
    stored_bytes: int = 0

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
    def kept(self) -> int:
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

    def cut(self, label: str, kept: Sequence[int]) -> Site:
        """The same site, dense, with only the `kept` units of `label` on the dimensions that carry it."""
        shape = list(self.shape)
        axes: dict[str, Any] = {}
        for key, dim in (("output_axis", self.output_dim), ("input_axis", 1)):
            axis: Axis | None = getattr(self, key)
            if axis is not None and axis.label == label:
                axes[key] = axis.cut(kept)
                shape[dim] = axis.cut(kept).size
        cut = replace(self, shape=tuple(shape), **axes)
        return replace(cut, stored_bytes=cut.dense_bytes)

    def factored(self, rank: int) -> tuple[Site, Site]:
        """The two sites, `first` and `second`, that take its place when its weight becomes a product of that rank."""
        shapes: tuple[tuple[int, ...], tuple[int, ...]]
        if self.kind == "embedding":
            shapes = (self.shape[0], rank), (self.shape[1], rank)
        else:
            shapes = (rank, *self.shape[1:]), (self.shape[0], rank, *(1 for _ in self.shape[2:]))
        first = replace(self, path=f"{self.path}.first", shape=shapes[0], bias=False, output_axis=None,
                        branch=f"{self.branch}.first".strip("."))  # fmt: skip
        kind: Kind = "linear" if self.kind == "embedding" else self.kind
        second = replace(self, path=f"{self.path}.second", shape=shapes[1], kind=kind, input_axis=None,
                         branch=f"{self.branch}.second".strip("."))  # fmt: skip
        return replace(first, stored_bytes=first.dense_bytes), replace(second, stored_bytes=second.dense_bytes)

    @property
    def dense_bytes(self) -> int:
        """Bytes of weight and bias when both are kept as plain tensors."""
        return math.prod(self.shape) * TYPE_BYTES[self.dtype] + self.bias_bytes


@dataclass(frozen=True)
class Tower:
    """One part of the model that serves one modality: `image`, `audio`, `text`, or `fusion` for where they meet.

    `blocks` are the dotted paths of its repeated blocks in running order; `prefixes` the dotted paths of the
    modules that belong to it, blocks or not.
    """

    name: str
    modality: str
    blocks: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counter:
    """An attribute of a module that counts units of an axis, such as `num_heads`: units × `per_unit`."""

    label: str
    path: str
    attribute: str
    per_unit: int = 1


@dataclass(frozen=True)
class Layout:
    """Towers and sites of one model. Sites stand in running order."""

    towers: tuple[Tower, ...]
    sites: tuple[Site, ...]
    counters: tuple[Counter, ...] = field(default=())

    def site(self, path: str) -> Site:
        """The site whose module stands at `path`."""
        return next(site for site in self.sites if site.path == path)

    def tower(self, name: str) -> Tower:
        """The tower called `name`."""
        return next(tower for tower in self.towers if tower.name == name)

    def labels(self) -> tuple[str, ...]:
        """All axis labels, in running order, each once."""
        found = (a.label for site in self.sites for a in (site.output_axis, site.input_axis) if a is not None)
        return tuple(dict.fromkeys(found))

    def carrying(self, label: str) -> Iterator[Site]:
        """The sites that have `label` on a dimension."""
        for site in self.sites:
            if any(a is not None and a.label == label for a in (site.output_axis, site.input_axis)):
                yield site

    def exchange(self, old: Iterable[Site], new: Iterable[Site]) -> Layout:
        """The layout with the sites `old` replaced by `new`: by path where it stays, else in place of the
        site whose path is a prefix of the new one."""
        by_path = {site.path: site for site in new}
        gone = {site.path for site in old}

        def successors(site: Site) -> Iterator[Site]:
            if site.path not in gone:
                yield site
            elif site.path in by_path:
                yield by_path[site.path]
            else:
                yield from (s for s in by_path.values() if s.path.startswith(site.path + "."))

        return replace(self, sites=tuple(s for site in self.sites for s in successors(site)))

    def cut(self, label: str, kept: Sequence[int]) -> Layout:
        """The layout after the units of `label` that are not `kept` are gone."""
        sites = list(self.carrying(label))
        return self.exchange(sites, [site.cut(label, kept) for site in sites])

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file; fields at their default are left out."""
        return {
            "towers": [asdict(tower) for tower in self.towers],
            "sites": [_terse(site) for site in self.sites],
            "counters": [_terse(counter) for counter in self.counters],
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Layout:
        """The inverse of `to_json`."""
        return Layout(
            towers=tuple(
                Tower(t["name"], t["modality"], tuple(t["blocks"]), tuple(t["prefixes"])) for t in data["towers"]
            ),
            sites=tuple(_site_from_json(s) for s in data["sites"]),
            counters=tuple(Counter(**c) for c in data["counters"]),
        )


def _terse(item: Site | Counter | Axis) -> dict[str, Any]:
    values = ((f.name, getattr(item, f.name), f.default) for f in fields(item))
    return {
        name: _terse(value) if isinstance(value, Axis) else value for name, value, default in values if value != default
    }


def _site_from_json(data: dict[str, Any]) -> Site:
    fields_of = {"block": None, **data, "shape": tuple(data["shape"]), "tied": tuple(data.get("tied", ()))}
    for key in ("input_axis", "output_axis"):
        if key in data:
            fields_of[key] = Axis(**data[key])
    return Site(**fields_of)

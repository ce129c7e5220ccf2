"""Which weight dimensions must be cut together, for modules that nobody declared: found by watching one forward pass.

The module runs once on tensors without values (`meta`), and every operator that PyTorch carries out is seen with the
tensors that go in and come out, whatever the code around them looks like (`graph/dim_propagation.py`). Every entry of every
weight dimension is a node. Along the way each dimension of each tensor carries an array that says, for each of its
entries, which node it is:

    linear, convolution     the input's entries are the weight's columns, the output's are its rows
    add, multiply, …        entry by entry both sides are the same node
    cat, split, slice       arrays are joined and sliced; reshape, permute: moved, repeated or gathered into blocks
    grouped convolution     all entries of a group are one node, and so are those of a group norm's group
    depthwise convolution   a group is one channel

Nodes that meet are united. What must be cut together is then one set of nodes, and sets that occur at the same places
in the same order are the units of one label. Some sets cannot be cut, with a reason: they reach the model's input or
output, a norm or softmax runs over them (what stays would no longer compute what it did), the weight is tied, a
parameter outside of all layers or an operator not known here is in between.

A model's code may hold sizes of its own (`view(-1, 8, 16)`). So the labels are tried: half of the units are cut and the
model is watched again, for half of the labels at a time, and for each by itself where that fails. Unless the same
couplings are found, only smaller, the label is dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from trimodal.core import Axis, Layout, Site, SizeAttribute, Uncuttable
from trimodal.edits.cut import cut_units_
from trimodal.errors import ModelError
from trimodal.graph.dim_propagation import NORMALISED, DimensionTrace
from trimodal.graph.disjoint_sets import Nodes
from trimodal.layers import Recurrent
from trimodal.models.copying import copy_to_meta
from trimodal.models.foreign import last_line_of, run_forward

_FAILURES = (
    RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError, OSError,
)  # fmt: skip
_ORDER = "layers have its units in different orders"
_OUTPUT = "it is the model's output"
_OWN_SIZE = "the model's own code goes wrong when a unit is missing; it names a size"


def find_dependencies(module: nn.Module, layout: Layout, inputs: Mapping[str, Tensor], most: int | None = None) -> Layout:
    """`layout` with an axis on every dimension that can be cut, and the reasons why others cannot.

    `inputs` are keyword arguments of the module's forward for one sample; only their shapes and types matter. Where the labels do not
    hold together, at most `most` are tried one by one; of more, none is kept.
    """
    if not inputs:
        return layout
    try:
        bare = copy_to_meta(module)
        found = trace_dependencies(bare, layout, inputs)
    except (ModelError, *_FAILURES) as error:
        reason = f"its forward does not run on tensors without values ({last_line_of(error.__cause__ or error)[:150]})"
        return replace(layout, uncuttable=(Uncuttable("", reason),))
    if all(_can_cut_labels(bare, found, inputs, several) for several in _split_label_subsets(found.list_labels())):
        return found
    if most is not None and len(found.list_labels()) > most:
        return _remove_labels(found, found.list_labels())
    return _remove_labels(found, [label for label in found.list_labels() if not _can_cut_labels(bare, found, inputs, [label])])


def trace_dependencies(bare: nn.Module, layout: Layout, inputs: Mapping[str, Tensor]) -> Layout:
    """`layout` with the axes that one forward pass of `bare`, a module on `meta`, shows. Of `inputs`, the keywords of its forward,
    only shapes and dtypes count.

    Raises:
        ModelError: the forward pass fails on `meta`.
    """
    trace = DimensionTrace()
    for name, tensor in (*bare.named_parameters(), *bare.named_buffers()):
        trace.add_parameter(tensor, name)
    modules = dict(bare.named_modules())
    known = {id(getattr(modules[site.path], name, None)) for site in layout.sites for name in NORMALISED}
    values = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), dict(inputs))
    with torch.no_grad(), torch.device("meta"), trace:
        result = run_forward(bare.eval(), values)
    for tensor in collect_tensors(result):
        trace.mark_tensor_uncuttable(tensor, _OUTPUT)
    for name, tensor in (*bare.named_parameters(), *bare.named_buffers()):
        if id(tensor) not in known:
            trace.mark_tensor_uncuttable(tensor, f"{name} stands outside of all layers that can be cut")
    for site in layout.sites:
        if site.tied:
            trace.mark_tensor_uncuttable(getattr(modules[site.path], "weight"), f"its weight is tied to {site.tied[0]}")  # noqa: B009
    return _AxisLabeller(layout, trace, modules).label_layout()


def _split_label_subsets(labels: Sequence[str]) -> Iterable[list[str]]:
    """Few subsets of the labels such that of any two each is at least once cut without the other."""
    for bit in range(max(1, (len(labels) - 1).bit_length())):
        for half in (0, 1):
            yield [label for number, label in enumerate(labels) if number >> bit & 1 == half]


def _can_cut_labels(bare: nn.Module, layout: Layout, inputs: Mapping[str, Tensor], labels: Sequence[str]) -> bool:
    """Whether the module with half the units of each of the `labels` cut shows what the layout foretells."""
    smaller, expected = copy.deepcopy(bare), layout
    for label in labels:
        axes = (axis for site in expected.find_label_sites(label) for axis in (site.output_axis, site.input_axis) if axis)
        units = next(axis.units_of(label) for axis in axes if label in axis.labels)
        kept = range(units - units // 2)
        cut_units_(smaller, expected, label, kept)
        expected = expected.cut_units(label, kept)
    sites = tuple(replace(site, input_axis=None, output_axis=None) for site in expected.sites)
    try:
        found = trace_dependencies(smaller, replace(expected, sites=sites, size_attributes=()), inputs)
    except (ModelError, *_FAILURES):
        return False
    return _collect_axis_shapes(found, expected, labels) == _collect_axis_shapes(expected, expected, labels)


def _collect_axis_shapes(layout: Layout, expected: Layout, labels: Sequence[str]) -> list[Any]:
    """What the axes look like at the sites where `expected` has the `labels`, whatever they are called there."""
    found = []
    for site, other in zip(layout.sites, expected.sites, strict=True):
        for axis, wanted in ((site.input_axis, other.input_axis), (site.output_axis, other.output_axis)):
            if wanted is not None and set(labels) & set(wanted.labels):
                parts = () if axis is None else axis.parts
                found.append([(bool(p.label), p.units, p.width, p.repeats) for p in parts])
    return found


def _remove_labels(layout: Layout, labels: Sequence[str]) -> Layout:
    """The layout without these labels, which were tried and do not hold."""

    def cleared(axis: Axis | None) -> Axis | None:
        parts = () if axis is None else axis.parts
        return _join_axes([Axis("", _size_of_part(part)) if part.label in labels else part for part in parts])

    sites = [replace(s, input_axis=cleared(s.input_axis), output_axis=cleared(s.output_axis)) for s in layout.sites]
    fixed = (*layout.uncuttable, *(Uncuttable(label, _OWN_SIZE) for label in labels))
    counters = tuple(counter for counter in layout.size_attributes if counter.label not in labels)
    return replace(layout, sites=tuple(sites), size_attributes=counters, uncuttable=fixed)


def _size_of_part(part: Axis) -> int:
    return part.units * part.width * part.repeats


def _join_axes(parts: Iterable[Axis]) -> Axis | None:
    """The parts as one axis, neighbours without a label made one; None if none has a label."""
    found: list[Axis] = []
    for part in parts:
        if found and not part.label and not found[-1].label:
            found[-1] = Axis("", _size_of_part(found[-1]) + _size_of_part(part))
        else:
            found.append(part)
    return replace(found[0], then=tuple(found[1:])) if any(part.label for part in found) else None


def collect_tensors(result: Any) -> list[Tensor]:
    """All tensors, of any shape, in what a forward returned."""
    found: list[Tensor] = []
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__"):
            found += collect_tensors(list(vars(leaf).values()))
    return found


_NOTHING: Nodes = np.array([], dtype=np.int64)


def _split_runs(numbers: Nodes) -> Iterable[tuple[int, int, int]]:
    """(start, end, number) of each stretch of equal numbers."""
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    return [(start, end, int(numbers[start])) for start, end in pairwise(edges)]


class _AxisLabeller:
    """Turns sets of nodes into labelled axes on the sites."""

    def __init__(self, layout: Layout, trace: DimensionTrace, modules: Mapping[str, nn.Module]) -> None:
        self._layout = layout
        self._sets = trace.sets
        self._modules = modules
        self._places: dict[tuple[str, str], Nodes] = {}
        for site in layout.sites:
            dims = trace.dims_of(modules[site.path].weight)  # type: ignore[arg-type]
            sides = {"output": 0 if site.kind == "norm" else site.output_dim}
            if site.kind in ("linear", "conv") and site.groups == 1:
                sides["input"] = 1
            for side, dim in sides.items():
                nodes = dims[dim] if dim < len(dims) else None
                if nodes is not None:
                    self._places[site.path, side] = trace.sets.find_roots(nodes)
        self._group: dict[int, int] = {}  # set -> number of its group
        self._unit: dict[int, int] = {}  # set -> its number among those of the group
        self._size: list[int] = []  # units per group
        self._form_groups()
        self._numbers = {key: self._look_up_numbers(roots, self._group) for key, roots in self._places.items()}
        self._units = {key: self._look_up_numbers(roots, self._unit) for key, roots in self._places.items()}

    @staticmethod
    def _look_up_numbers(roots: Nodes, numbers: Mapping[int, int]) -> Nodes:
        """The number of each set, -1 for those without."""
        sets, places = np.unique(roots, return_inverse=True)
        return np.array([numbers.get(int(root), -1) for root in sets], dtype=np.int64)[places]

    def _form_groups(self) -> None:
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

    def label_layout(self) -> Layout:
        """The layout with its axes."""
        usable = {number for number in range(len(self._size)) if self._find_obstacle(number) is None}
        names = self._name_groups(usable)
        sites = []
        for site in self._layout.sites:
            axes = {side: self._make_axis((site.path, side), names) for side in ("input", "output")}
            sites.append(replace(site, input_axis=axes["input"], output_axis=axes["output"]))
        return replace(
            self._layout, sites=tuple(sites), size_attributes=tuple(self._find_size_attributes(sites)),
            uncuttable=tuple(self._find_uncuttable(sites)),
        )

    def _find_size_attributes(self, sites: Sequence[Site]) -> Iterable[SizeAttribute]:
        """The attribute of a recurrent layer that says how many units it has."""
        found: dict[str, SizeAttribute] = {}
        for site in sites:
            owner = site.path.rpartition(".hidden.")[0]
            if isinstance(self._modules.get(owner), Recurrent) and site.input_axis is not None:
                found[owner] = SizeAttribute(site.input_axis.label, owner, "hidden_size")
        return found.values()

    def _find_obstacle(self, number: int) -> str | None:
        """Why the units of a group cannot be cut, None if they can."""
        where = [key for key, numbers in self._numbers.items() if (numbers == number).any()]
        kinds = {site.path: site.kind for site in self._layout.sites}
        if not any(side == "input" for _, side in where):
            return "no layer reads it"
        if not any(side == "output" and kinds[path] != "norm" for path, side in where):
            return "no layer writes it"
        if self._size[number] < 2:
            return "all its entries hang together"
        if any(part is None for key in where for part in self._find_runs(key, number)):
            return _ORDER
        return None

    def _find_runs(self, key: tuple[str, str], only: int) -> list[Axis | None]:
        """The stretches of the dimension `key` that belong to the group `only`; None for one in another order."""
        return [
            self._make_run_axis(only, self._units[key][start:end])
            for start, end, number in _split_runs(self._numbers[key])
            if number == only
        ]

    def _make_run_axis(self, number: int, units: Nodes) -> Axis | None:
        """An axis, still without a label, whose entries are these units of a group; None if no axis has that order."""
        width = int((np.append(units, -1) != units[0]).argmax())
        block = np.repeat(np.arange(self._size[number]), width)
        fits = len(units) % len(block) == 0 and (units.reshape(-1, len(block)) == block).all()
        return Axis("", self._size[number], width, len(units) // len(block)) if fits else None

    def _make_axis(self, key: tuple[str, str], names: Mapping[int, str]) -> Axis | None:
        if key not in self._places:
            return None
        named = np.where(np.isin(self._numbers[key], list(names)), self._numbers[key], -1)
        parts = []
        for start, end, number in _split_runs(named):
            part = self._make_run_axis(number, self._units[key][start:end]) if number >= 0 else Axis("", end - start)
            assert part is not None  # groups in several orders have no name
            parts.append(replace(part, label=names.get(number, "")))
        return _join_axes(parts)

    def _name_groups(self, usable: set[int]) -> dict[int, str]:
        """A label for each group, from the first layer that writes it: `tower.block.branch.channels`."""
        names: dict[int, str] = {}
        for site in self._layout.sites:
            for number in dict.fromkeys(self._numbers.get((site.path, "output"), _NOTHING).tolist()):
                if number in usable and number not in names and site.kind != "norm":
                    names[number] = self._make_unique_label(site, self._unit_kind_of(number), set(names.values()))
        return names

    def _unit_kind_of(self, number: int) -> str:
        """What a unit is: a channel where a convolution is involved, a head where every layer gives it several
        entries, else a neuron."""
        widths = []
        for site in self._layout.sites:
            for side in ("output", "input"):
                runs = self._find_runs((site.path, side), number) if (site.path, side) in self._numbers else []
                if runs and site.kind == "conv":
                    return "channels"
                widths += [part.width for part in runs if part is not None and site.kind != "norm"]
        return "heads" if min(widths) > 1 else "neurons"

    def _make_unique_label(self, site: Site, unit: str, taken: set[str]) -> str:
        stem = site.name.rpartition(".")[0]
        label = f"{stem}.{unit}"
        number = 1
        while label in taken:
            number += 1
            label = f"{stem}.{number}.{unit}"
        return label

    def _find_uncuttable(self, sites: Sequence[Site]) -> Iterable[Uncuttable]:
        """The reasons for layers of which no output can be cut."""
        for site in sites:
            roots = self._places.get((site.path, "output"))
            if site.kind == "norm" or roots is None or site.output_axis is not None:
                continue
            reasons = [self._sets.reasons.get(int(root)) for root in roots]
            number = self._group.get(int(roots[0]), -1)
            reason = next((r for r in reasons if r), None) or (self._find_obstacle(number) if number >= 0 else None)
            unit = "channels" if site.kind == "conv" else "neurons"
            yield Uncuttable(f"{site.name.rpartition('.')[0]}.{unit}", reason or _ORDER)

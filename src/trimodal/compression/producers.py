"""What makes the input of a group of layers, and can take over a factor per column of it: a norm, the rows of a value
projection or of a gated MLP's `up`, the layer before a ReLU. Known from trying, not from names.

For y = W x with x_j = f(…) made by channel r(j) of a layer or norm P before it, multiplying channel r(j) of P and dividing column
j of W by one c_j > 0 changes nothing where all between P and W is linear in each channel (a mean over tokens by attention, a
product with a gate) or positively homogeneous (ReLU), and where nobody else reads what P makes. Both are tried at once: the
factors are powers of two, so that no weight is rounded, and the block has to give what it gave. Behind a GELU, or where the residual
stream reads a norm too (BERT), it does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from trimodal.compression.solve_context import SolveContext
from trimodal.core import Axis, Change, Site, Treatment
from trimodal.graph.fusion_discovery import LARGEST_ERROR, norm_offset_of

_EXACT = ("float32", "float64")  # in half precision a weight times a factor is another weight


@dataclass(frozen=True)
class Producer:
    """The site that makes an input: column j of the input is channel `rows`[`ties`[j]] of what it gives.

    `rows` int64 (k,), `ties` int64 (n,) with numbers below k. A norm multiplies by its weight plus `offset`.
    """

    site: Site
    rows: Tensor
    ties: Tensor
    offset: float = 0.0

    def scale_self(self, weight: Tensor, bias: Tensor | None, factor: Tensor) -> tuple[Tensor, Tensor | None]:
        """Its weight (m, …) and bias (m,) where channel `rows`[i] of what it gives is multiplied by `factor`[i]; `factor` is (k,)."""
        whole = torch.ones(len(weight), dtype=weight.dtype, device=weight.device)
        whole[self.rows.to(weight.device)] = factor.to(whole)
        scaled = (weight + self.offset) * whole.view(-1, *[1] * (weight.dim() - 1)) - self.offset
        return scaled, None if bias is None else bias * whole

    def unscale_reader(self, weight: Tensor, factor: Tensor) -> Tensor:
        """The weight (m, n / kernel, …) of a layer that reads it, for an input that is multiplied by `factor` (k,)."""
        return (weight.flatten(1) / factor.to(weight)[self.ties.to(weight.device)]).view_as(weight)


def find_producer(context: SolveContext, readers: Sequence[Site]) -> Producer | None:
    """What can take over a factor of the input that `readers`, all in one block, have in common; None if nothing can."""
    if readers[0].block is None or not all(map(_is_plain, readers)):
        return None
    candidates = list(_list_candidates(context, readers))
    before = _collect_block_outputs(context, readers[0]) if candidates else []
    return next((found for found in candidates if before and _is_exact(context, found, readers, before)), None)


def fold_factor(context: SolveContext, producer: Producer, readers: Sequence[Site], factor: Tensor) -> Change:
    """The change by which `producer` makes an input multiplied by `factor` (n,), and `readers` are as if it were not."""
    module, tied = context.model.module, torch.ones(len(producer.rows))
    tied[producer.ties] = factor.cpu().float()
    layer = module.get_submodule(producer.site.path)
    with torch.no_grad():
        weight, bias = producer.scale_self(_weight_of(layer), layer._parameters.get("bias"), tied)
        found = {producer.site.path: _store_dense(producer.site, weight, bias)}
        for site in readers:
            plain = producer.unscale_reader(_weight_of(module.get_submodule(site.path)), tied)
            found[site.path] = _store_dense(site, plain, None)
    return Change(found)


def _store_dense(site: Site, weight: Tensor, bias: Tensor | None) -> Treatment:
    options = {"shape": list(site.shape), "dtype": site.dtype}
    return Treatment("dense", options, {"weight": weight.detach().clone()}, None if bias is None else bias.detach().clone())


def _weight_of(layer: nn.Module) -> Tensor:
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight


def _is_plain(site: Site) -> bool:
    """Whether nothing but the site itself hangs on its weight, which can be scaled without rounding."""
    free = site.stored == "dense" and not (site.tied or site.elsewhere or site.running or site.own_forward)
    return free and site.kind != "embedding" and site.groups == 1 and site.dtype in _EXACT


def _list_candidates(context: SolveContext, readers: Sequence[Site]) -> Iterator[Producer]:
    """The sites of the block that might make the input: norms as wide as it, and layers that write what the readers read."""
    first, taken, kernel = readers[0], {site.path for site in readers}, math.prod(readers[0].shape[2:])
    for site in context.model.layout.sites:
        if (site.tower, site.block) != (first.tower, first.block) or site.path in taken or not _is_plain(site):
            continue
        if site.kind == "norm":
            offset = norm_offset_of(context.model.module.get_submodule(site.path)) if site.shape[0] == first.shape[1] else None
            if offset is not None:
                every = torch.arange(site.shape[0])
                yield Producer(site, every, every.repeat_interleave(kernel), offset)
        elif first.input_axis is not None and site.output_axis is not None:
            for rows, ties in _match_axes(site.output_axis, first.input_axis):
                yield Producer(site, rows, ties.repeat_interleave(kernel))


def _match_axes(writes: Axis, reads: Axis) -> Iterator[tuple[Tensor, Tensor]]:
    """The channels that the units of one label have in what is written, for each run of them, and for every column that is read the
    number of its channel. Where a unit is read wider than it is written (grouped queries) its channels come over and over."""
    plain = not writes.then and not reads.then and reads.repeats == 1 and writes.label == reads.label != ""
    if not plain or writes.units != reads.units or reads.width % writes.width:
        return
    run = writes.units * writes.width
    columns = torch.arange(reads.size)
    ties = columns // reads.width * writes.width + columns % reads.width % writes.width
    for number in reversed(range(writes.repeats)):  # the values of a fused projection come last
        yield torch.arange(number * run, (number + 1) * run), ties


def _collect_block_outputs(context: SolveContext, site: Site) -> list[Tensor]:
    """All tensors that the site's block gives for one batch; none where no batch comes to it."""
    found = context.activations.run_block(site.tower, site.block or 0)
    return [leaf.clone() for leaf in tree_leaves(found) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _is_exact(context: SolveContext, producer: Producer, readers: Sequence[Site], before: Sequence[Tensor]) -> bool:
    """Whether the block gives what it gave `before` with factors at both ends, and something else with those of `producer` alone."""
    module, random = context.model.module, torch.Generator().manual_seed(0)
    factor = torch.tensor([0.25, 0.5, 2.0, 4.0])[torch.randint(0, 4, (len(producer.rows),), generator=random)]
    layer = module.get_submodule(producer.site.path)
    readings: dict[str, tuple[Tensor, Tensor | None]] = {}
    with torch.no_grad():
        own = {producer.site.path: producer.scale_self(_weight_of(layer), layer._parameters.get("bias"), factor)}
        for site in readers:
            readings[site.path] = producer.unscale_reader(_weight_of(module.get_submodule(site.path)), factor), None
    with _set_meanwhile(module, own | readings):
        if not _are_alike(_collect_block_outputs(context, readers[0]), before):
            return False
    with _set_meanwhile(module, own):
        return not _are_alike(_collect_block_outputs(context, readers[0]), before)


@contextmanager
def _set_meanwhile(module: nn.Module, values: Mapping[str, tuple[Tensor, Tensor | None]]) -> Iterator[None]:
    """Meanwhile layers by path have these weights and biases; None leaves the bias. Afterwards they have their own, to the bit."""
    old: list[tuple[Tensor, Tensor]] = []
    try:
        for path, pair in values.items():
            layer = module.get_submodule(path)
            for name, value in zip(("weight", "bias"), pair, strict=True):
                tensor = layer._parameters.get(name)
                if value is not None and tensor is not None:
                    old.append((tensor, tensor.data))
                    tensor.data = value
        yield
    finally:
        for changed, data in old:
            changed.data = data


def _are_alike(after: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Whether all tensors are the same up to rounding, ‖Δy‖ ≤ 1e-5 ‖y‖."""
    if [t.shape for t in after] != [t.shape for t in before]:
        return False
    pairs = [(a.double(), b.double()) for a, b in zip(after, before, strict=True)]
    return all(bool(a.isfinite().all()) and float((a - b).norm()) <= LARGEST_ERROR * float(b.norm()) for a, b in pairs)

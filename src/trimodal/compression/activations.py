"""Activations, block by block: run the smallest part of the model that a group of sites needs, and see its inputs.

Block b+1 of a tower mostly takes what block b gave. So the model runs in full once per tower, up to its first block that
is asked for; from there each block is run alone on the kept activations, and after it was changed once more, so that the
next block is calibrated on what it will really get. Where one block does not feed the next (checked by identity of the
tensors, not assumed), and for sites outside all blocks, the whole model runs again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.compression.input_groups import WeightReadMode, finds_own_rows
from trimodal.core import Site
from trimodal.layers import ExpertMatrix, TransposedConvolution
from trimodal.models.blocks import drop_cache, get_hidden_states, split_block_inputs
from trimodal.models.foreign import StopForward, run_forward
from trimodal.models.model import Batch, Model
from trimodal.statistics import (
    ActivationSample,
    ColumnNorm,
    GroupedMoment,
    Moment,
    RowUsage,
    Seen,
    StatisticKind,
    find_token_codes,
    split_rows_by_modality,
    unfold_input,
)

Tick = Callable[[], None]


@dataclass
class _ActivationCache:
    """Kept activations of one tower: what block `block` gets, per batch."""

    tower: str
    block: int
    inputs: list[Any]
    calls: list[list[tuple[tuple[Any, ...], dict[str, Any]]]]  # per batch, per block: further arguments
    fed: list[bool]  # per block: whether it takes what the block before it gave


@dataclass
class Activations:
    """The calibration batches, and the way to push them through parts of `model`.

    `original` does the same with the model as it was; statistics that pair both models' inputs need it.
    """

    model: Model
    batches: Sequence[Batch]
    original: Activations | None = None
    tick: Tick = lambda: None
    _chain: _ActivationCache | None = field(default=None, init=False)
    _codes: list[dict[str, Tensor]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.clear_cache_()

    def collect_statistics(self, sites: Sequence[Site], wants: Mapping[str, StatisticKind]) -> dict[str, dict[str, Seen]]:
        """Statistics by path of the sites in `wants`, each by modality.

        All `sites` lie in one block, or all outside of blocks. Sites that get the very same input share one statistic.
        """
        tower, block = sites[0].tower, sites[0].block
        self.model.module.eval()
        with torch.inference_mode():
            # Reaching the block runs it too: nothing may be recorded before that is done.
            chain = None if block is None else self._reach_block(tower, block)
            paired = [path for path, kind in wants.items() if kind == "paired"]
            twin = self.original if paired else None
            was = (
                {path: self.model.layout.find_original_path(twin.model.layout, path) for path in paired} if twin is not None else {}
            )
            twin_chain = None if twin is None or block is None else twin._reach_block(tower, self._find_original_block(tower, block, twin))
            with _record_statistics(self.model, [s for s in sites if s.path in wants], wants) as recorder:
                for index, codes in enumerate(self._codes):
                    originals = twin.capture_inputs(index, twin_chain, list(was.values())) if twin is not None else {}
                    recorder.start_batch_(codes, {path: originals[old] for path, old in was.items() if old in originals})
                    with suppress(StopForward):
                        self._run_batch(index, chain)
                    self.tick()
        return recorder.collect_by_site()

    def _find_original_block(self, tower: str, block: int, twin: Activations) -> int:
        """The number that a block has in the model as it was, which may have more of them."""
        here, there = self.model.layout.get_tower(tower), twin.model.layout.get_tower(tower)
        return there.origins.index(here.origins[block])

    def run_block(self, tower: str, block: int) -> Any:
        """What block number `block` of `tower`, as it is now, gives for the first batch that comes to it; None if none does."""
        self.model.module.eval()
        with torch.inference_mode():
            chain = self._reach_block(tower, block)
            index = next((i for i, hidden in enumerate(chain.inputs) if hidden is not None), None)
            if index is None:
                return None
            args, kwargs = chain.calls[index][block]
            return self._get_block(chain)(chain.inputs[index], *args, **kwargs)

    def clear_cache_(self) -> None:
        """Drop the kept activations: layers of several blocks have changed, and with them what the blocks are given, or how many tokens
        these are."""
        self._chain = None
        self._codes = [dict(self.model.family.tokens(self.model.module, batch)) for batch in self.batches]

    def capture_inputs(self, index: int, chain: _ActivationCache | None, paths: Sequence[str]) -> dict[str, list[Tensor]]:
        """What the layers at `paths` get from batch number `index`, (…, columns) as each takes it, call by call; those that are
        not there or do not run are missing."""
        found: dict[str, list[Tensor]] = {}
        modules = dict(self.model.module.named_modules())

        def hook(path: str) -> Callable[..., None]:
            def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                found.setdefault(path, []).append(split_block_inputs(args, kwargs)[0])

            return see

        handles = [
            modules[path].register_forward_pre_hook(hook(path), with_kwargs=True) for path in paths if path in modules
        ]
        try:
            self._run_batch(index, chain)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def find_sources(self, sites: Sequence[Site]) -> dict[str, str]:
        """By path, the first of `sites`, all in one block or all outside of blocks, that was given the very same tensor for the first
        batch that comes there, in whatever patches; sites that none comes to are missing."""
        tower, block = sites[0].tower, sites[0].block
        self.model.module.eval()
        with torch.inference_mode():
            chain = None if block is None else self._reach_block(tower, block)
            came = [True] * len(self.batches) if chain is None else [hidden is not None for hidden in chain.inputs]
            given = self.capture_inputs(came.index(True), chain, [site.path for site in sites]) if any(came) else {}
        first: dict[int, str] = {}
        return {path: first.setdefault(id(tensors[0]), path) for path, tensors in given.items()}

    def _run_batch(self, index: int, chain: _ActivationCache | None) -> None:
        """Push batch number `index` through the block where `chain` stands, or through the whole model."""
        if chain is None:
            run_forward(self.model.module, self.batches[index])
        elif chain.inputs[index] is not None:
            args, kwargs = chain.calls[index][chain.block]
            self._get_block(chain)(chain.inputs[index], *args, **kwargs)

    def _get_block(self, chain: _ActivationCache) -> nn.Module:
        return self.model.module.get_submodule(self.model.layout.get_tower(chain.tower).blocks[chain.block])

    def _reach_block(self, tower: str, block: int) -> _ActivationCache:
        """The chain standing at `block`: advanced from where it stands, or captured anew."""
        chain = self._chain
        if chain is None or chain.tower != tower or chain.block > block:
            self._chain = chain = self._capture_block(tower, block)
        while chain.block < block:
            if not chain.fed[chain.block + 1]:
                self._chain = chain = self._capture_block(tower, block)
                break
            self._advance_cache(chain)
        return chain

    def _advance_cache(self, chain: _ActivationCache) -> None:
        """Push every batch through the block as it is now."""
        module = self._get_block(chain)
        for index, hidden in enumerate(chain.inputs):
            if hidden is not None:
                args, kwargs = chain.calls[index][chain.block]
                chain.inputs[index] = get_hidden_states(module(hidden, *args, **kwargs))
        chain.block += 1

    def _capture_block(self, tower: str, block: int) -> _ActivationCache:
        """Run the model up to the tower's last block and keep what block `block` gets.

        What later blocks compute is not needed, only what they are called with. So where in the first batch each gave
        one tensor of the shape that it got and fed the next, they hand on their input in the other batches.
        """
        paths = self.model.layout.get_tower(tower).blocks
        chain = _ActivationCache(tower, block, [], [], [True] * len(paths))
        idle = False
        for batch in self.batches:
            hidden, calls, fed, alike = _capture_batch(self.model.module, paths, block, batch, idle)
            chain.inputs.append(hidden)
            chain.calls.append(calls)
            chain.fed = [old and new for old, new in zip(chain.fed, fed, strict=True)]
            idle = hidden is not None and alike and all(chain.fed)
            self.tick()
        return chain


def _capture_batch(
    module: nn.Module, paths: Sequence[str], block: int, batch: Batch, idle: bool
) -> tuple[Any, list[tuple[tuple[Any, ...], dict[str, Any]]], list[bool], bool]:
    """For one batch: the input of block number `block` (None if it never ran), each block's further arguments, whether
    each block got the very tensor that the block before it gave, and whether all gave one tensor of the shape they got.

    `idle`: the blocks from `block` on hand on their input.
    """
    hidden: Any = None
    last: Any = None
    alike = True
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((), {}) for _ in paths]
    fed = [True] * len(paths)
    ran: set[int] = set()
    ended = -1  # the number of the block that ran last

    def before(number: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal hidden
            first, rest, named = split_block_inputs(args, kwargs)
            calls[number] = (tuple(map(drop_cache, rest)), {k: drop_cache(v) for k, v in named.items()})
            ran.add(number)
            if number == block:
                hidden = first
            elif number > block:
                fed[number] = first is last and ended == number - 1
            if number == len(paths) - 1 and hidden is not None:  # lists of heads need not run in the order in which they stand
                raise StopForward

        return hook

    def after(number: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            nonlocal last, alike, ended
            last, ended = get_hidden_states(output), number
            alike = alike and isinstance(output, Tensor) and output.shape == split_block_inputs(args, kwargs)[0].shape

        return hook

    blocks = [module.get_submodule(path) for path in paths]
    handles = [b.register_forward_pre_hook(before(i), with_kwargs=True) for i, b in enumerate(blocks)]
    handles += [b.register_forward_hook(after(i), with_kwargs=True) for i, b in enumerate(blocks)]
    try:
        with _bypass_blocks(blocks[block:] if idle else ()):
            run_forward(module, batch)
    except StopForward:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if hidden is not None:
        fed = [was and (number <= block or number in ran) for number, was in enumerate(fed)]
    return hidden, calls, fed, alike


@contextmanager
def _bypass_blocks(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Meanwhile `blocks` give back what they are given."""
    own = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.forward = lambda *args, **kwargs: split_block_inputs(args, kwargs)[0]
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


class _StatisticsRecorder:
    """Forward hooks that feed statistics."""

    def __init__(self, model: Model, sites: Sequence[Site], wants: Mapping[str, StatisticKind]) -> None:
        self._model = model
        self._wants = wants
        self._sites = {site.path: site for site in sites}
        self._found: dict[str, dict[str, Seen]] = {}
        self._leader: dict[str, str] = {}
        self._inputs: dict[str, tuple[nn.Module, Tensor]] = {}
        self._codes: dict[str, Tensor] = {}
        self._originals: dict[str, list[Tensor]] = {}
        self._calls: Counter[str] = Counter()
        self._batches = 0
        self._reads: dict[str, RowUsage] = {}

    def start_batch_(self, codes: dict[str, Tensor], originals: dict[str, list[Tensor]]) -> None:
        """A new batch is about to run; `codes` say which tokens are what, `originals` what the model as it was gives
        its layers, call by call."""
        self._codes = codes
        self._originals = originals
        self._inputs = {}
        self._batches += 1
        single = not any(site.kind == "experts" for site in self._sites.values())  # those are called as often as tokens choose them
        self._once = single and self._batches > 1 and all(self._calls[path] == self._batches - 1 for path in self._sites)
        self._waiting = set(self._sites)

    def make_hook(self, path: str) -> Callable[..., None]:
        """The hook for the site at `path`."""

        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = split_block_inputs(args, kwargs)[0]
            known = isinstance(x, Tensor) and not finds_own_rows(module)  # Marian's positions are given the shape of what they are for
            leader = self._leader.setdefault(path, self._find_leader(path, module, x)) if known else ""
            if leader == path:
                self._inputs[path] = module, x
                if isinstance(module, ExpertMatrix):
                    self._update_expert(path, module, x, int(args[1]))
                else:
                    self._update_statistics(path, module, x)
            self._calls[path] += 1
            self._waiting.discard(path)
            if self._once and not self._waiting:
                raise StopForward  # as many calls as in every batch before: the rest of this one is not needed

        return see

    def _find_leader(self, path: str, module: nn.Module, x: Tensor) -> str:
        """The site that was given the very same tensor in this batch and wants the same; `path` if there is none."""
        same = (
            p
            for p, (other, seen) in self._inputs.items()
            if seen is x and self._wants[p] == self._wants[path] and _patch_signature(other) == _patch_signature(module)
        )
        return next(same, path)

    def _update_statistics(self, path: str, module: nn.Module, x: Tensor) -> None:
        site = self._sites[path]
        modality = self._model.layout.get_tower(site.tower).modality
        lookup = isinstance(module, nn.Embedding | nn.EmbeddingBag)
        codes = find_token_codes(self._codes, site.stream, x)
        rows = split_rows_by_modality(x.unsqueeze(-1) if lookup else unfold_input(module, x), codes, modality)
        calls = self._originals.get(path)
        original = calls.pop(0) if calls else None
        twins: dict[str, Tensor] = {}
        if original is not None and original.shape == x.shape:
            twins = split_rows_by_modality(unfold_input(module, original), codes, modality)
        found = self._found.setdefault(path, {})
        for name, part in rows.items():
            if self._wants[path] in ("uses", "grouped"):
                _update_other_statistics_(found, name, module, part)
                continue
            if self._wants[path] == "norm":
                found.setdefault(name, ColumnNorm(part.shape[-1])).update(part)
                continue
            kind = ActivationSample if self._wants[path] == "sample" else Moment
            moment = found.setdefault(name, kind(part.shape[-1]))
            if isinstance(moment, Moment):
                moment.update(part, twins.get(name))

    def _update_expert(self, path: str, module: ExpertMatrix, x: Tensor, expert: int) -> None:
        """Take in x (tokens, n), which `expert` alone is given: of these tokens it is no longer known where they stood."""
        modality = self._model.layout.get_tower(self._sites[path].tower).modality
        seen = self._found.setdefault(path, {}).setdefault(modality, GroupedMoment(module.groups, x.shape[-1]))
        if isinstance(seen, GroupedMoment):
            seen.update_group(expert, x.reshape(-1, x.shape[-1]))

    def record_rows(self, path: str, rows: Tensor) -> None:
        """Rows of the embedding at `path` that were read without a call."""
        self._reads.setdefault(path, RowUsage(self._sites[path].rows)).update(rows)

    def collect_by_site(self) -> dict[str, dict[str, Seen]]:
        """What was found, by path; sites that never ran are missing. An embedding that was never called, but whose weight
        was read, has what was read."""
        read: dict[str, dict[str, Seen]] = {
            path: {self._model.layout.get_tower(self._sites[path].tower).modality: uses} for path, uses in self._reads.items()
        }
        return read | {path: self._found[leader] for path, leader in self._leader.items() if leader in self._found}


def _update_other_statistics_(found: dict[str, Seen], modality: str, module: nn.Module, part: Tensor) -> None:
    """Add rows (tokens, n) to what is seen of a layer whose input has no single second moment."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        uses = found.setdefault(modality, RowUsage(module.num_embeddings))
        if isinstance(uses, RowUsage):
            uses.update(part)
        return
    groups = module.groups if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) else 1
    if groups == 1:  # a head that uses the embedding's weight
        moment: Seen = found.setdefault(modality, Moment(part.shape[-1]))
    else:
        moment = found.setdefault(modality, GroupedMoment(groups, part.shape[-1] // groups))
    if isinstance(moment, Moment | GroupedMoment):
        moment.update(part)


def _patch_signature(module: nn.Module) -> tuple[Any, ...]:
    """What of a convolution decides which patches it sees, and of an embedding how many rows it has; empty for a linear
    layer."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return (module.num_embeddings,)
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | TransposedConvolution):
        return ()
    return module.kernel_size, module.stride, module.padding, module.dilation, module.padding_mode, type(module).__name__


@contextmanager
def _record_statistics(model: Model, sites: Sequence[Site], wants: Mapping[str, StatisticKind]) -> Iterator[_StatisticsRecorder]:
    recorder = _StatisticsRecorder(model, sites, wants)
    handles = [
        model.module.get_submodule(site.path).register_forward_pre_hook(recorder.make_hook(site.path), with_kwargs=True)
        for site in sites
    ]
    layers = {path: model.module.get_submodule(path) for path, kind in wants.items() if kind == "uses"}
    tables = {path: layer.weight for path, layer in layers.items() if isinstance(layer, nn.Embedding)}
    numbering = [path for path in tables if finds_own_rows(layers[path])]
    try:
        with WeightReadMode(tables, recorder.record_rows, numbering) if tables else nullcontext():
            yield recorder
    finally:
        for handle in handles:
            handle.remove()

"""Which layers never run, whatever can be tried from outside, and why some of them have to stay all the same.

Tried are, until every layer has run: the forward pass on each batch and on the family's own example, and with the same
inputs every method `get_…_features` or `encode…`, `generate`, and the forward pass with labels. A layer runs if it is
called, or if anybody asks for its tensors or computes with them.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from trimodal.core import Fold, Layout
from trimodal.edits.fold import is_leaf_module, named_tensors
from trimodal.errors import TrimodalError
from trimodal.graph.dependency_graph import collect_tensors
from trimodal.layers import RemovedLayer
from trimodal.models.foreign import last_line_of, run_foreign, run_forward
from trimodal.models.model import Batch, Model

_DOORS = re.compile(r"get_\w+_features|encode\w*")
_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_TOKENS = 2


def find_unused_layers(model: Model, batches: Sequence[Batch], examples: Sequence[Batch] = ()) -> list[Fold]:
    """Every layer that was never seen to run on `batches`, on further `examples` or by another way in, with a reason where
    it has to stay; none if there is nothing to run the model on."""
    module = model.module.eval()
    leaves = {path: part for path, part in module.named_modules() if path and is_leaf_module(part)}
    held = {name: t.numel() * t.element_size() for name, t in module.state_dict().items()}
    size = {path: sum(n for name, n in held.items() if name.rpartition(".")[0] == path) for path in leaves}
    use = _LayerUsage(module, [path for path in leaves if size[path]])
    for enter in _iter_entry_points(module, [*batches, *examples]):
        if use.all_ran:
            return []
        use.record_call(enter)
    if not batches:
        return []
    found = [_make_unused_fold(model, path, size[path], use) for path in leaves if size[path] and path not in use.ran]
    found = _keep_sole_readers(model.layout, found)
    trouble = _try_removal(module, [fold.path for fold in found if not fold.reason], batches)
    return [replace(fold, reason=fold.reason or trouble) for fold in found]


def _make_unused_fold(model: Model, path: str, size: int, use: _LayerUsage) -> Fold:
    """The layer at `path`, which holds `size` bytes and was not seen to run, with the reason why it has to stay, if any."""
    site = next((s for s in model.layout.sites if s.path == path), None)
    reason = _explain_need(model, path, use)
    if not reason and site is not None and site.stored_bytes != size:
        reason = "it holds more than its weight and bias"
    return Fold("idle", path, reason=f"never runs in what was seen, but {reason}" if reason else "",
                tensor_bytes=0 if site is not None else size)  # fmt: skip


def _explain_need(model: Model, path: str, use: _LayerUsage) -> str:
    """Why a layer that was not seen to run may be needed all the same, empty if nothing speaks for that."""
    sites = {site.path: site for site in model.layout.sites}
    site, kind = sites.get(path), _NUMBER.sub(".*", path)
    if site is not None and not any(s.tower == site.tower and s.path in use.ran for s in sites.values()):
        return f"neither does anything else of the {site.tower} tower; give data that uses it"
    unused = next((inner for inner in use.models if path.startswith(f"{inner}.") and inner not in use.ran), "")
    if unused:
        return f"{unused} is a model of its own that may be used alone"
    other = next((ran for ran in sorted(use.ran) if _NUMBER.sub(".*", ran) == kind), "")
    if other:
        return f"{other}, which is of the same kind, does: another input may need it"
    if path in use.shared:
        return "others hold its tensors too"
    if any(part is model.module.get_submodule(path) for part in _iter_embeddings(model.module)):
        return "the model hands it out as its input or output embeddings"
    return ""


def _keep_sole_readers(layout: Layout, folds: Sequence[Fold]) -> list[Fold]:
    """`folds`, of which those have to stay that alone read units which a layer that stays has: units are chosen by who reads
    them."""
    going = {fold.path for fold in folds if not fold.reason}
    why: dict[str, str] = {}
    lonely = True
    while lonely:
        lonely = False
        for label in layout.list_labels():
            carrying = list(layout.find_label_sites(label))
            staying = [site for site in carrying if site.path not in going]
            if staying and not any(site.reads_label(label) for site in staying):
                why |= {site.path: label for site in carrying if site.reads_label(label)}
                going -= why.keys()
                lonely = True
    return [
        replace(f, reason=f"never runs in what was seen, but nobody else reads the units of {why[f.path]}")
        if f.path in why
        else f
        for f in folds
    ]


def _iter_embeddings(module: nn.Module) -> Iterator[nn.Module | None]:
    for part in module.modules():
        if isinstance(part, PreTrainedModel):
            for ask in (part.get_input_embeddings, part.get_output_embeddings):
                with suppress(TrimodalError):
                    yield run_foreign("it", ask)


def _iter_entry_points(module: nn.Module, batches: Sequence[Batch]) -> Iterator[Callable[[], Any]]:
    """All that can be done with the module on `batches`, the usual first. Not all of it need work."""
    yield from (partial(module, **batch) for batch in batches)
    kind = type(module)
    doors = [getattr(module, name) for name in dir(kind) if _DOORS.fullmatch(name) and callable(getattr(kind, name))]
    for batch in batches:
        for door in doors:
            taken = inspect.signature(door).parameters
            yield partial(door, **{name: value for name, value in batch.items() if name in taken})
        if isinstance(module, PreTrainedModel) and module.can_generate():
            generate: Any = module.generate
            yield partial(generate, **batch, max_new_tokens=_TOKENS, do_sample=False)
        if "labels" in inspect.signature(module.forward).parameters and "labels" not in batch:
            whole = [value for value in batch.values() if not value.is_floating_point() and value.dim() == 2]
            each = [
                torch.zeros(len(value), dtype=torch.long, device=value.device) for value in list(batch.values())[:1]
            ]
            yield from (partial(module, **batch, labels=labels) for labels in (*whole, *each))


class _LayerUsage(TorchFunctionMode):
    """Notes which of the leaves at `paths` ran: were called, or had one of their tensors asked for or computed with."""

    def __init__(self, module: nn.Module, paths: Iterable[str]) -> None:
        super().__init__()
        self._paths = set(paths)
        self._module = module
        tensors = named_tensors(module)
        self._owners = {
            id(t): owner for name, t in tensors.items() if (owner := name.rpartition(".")[0]) in self._paths
        }
        times = Counter(t.data_ptr() for t in tensors.values() if t.numel())
        self.shared = {
            owner for name, t in tensors.items() if times[t.data_ptr()] > 1 and (owner := name.rpartition(".")[0])
        }
        self.models = [path for path, part in module.named_modules() if path and isinstance(part, PreTrainedModel)]
        self.ran: set[str] = set()

    @property
    def all_ran(self) -> bool:
        """Whether no leaf is left that did not run."""
        return self._paths <= self.ran

    def record_call(self, enter: Callable[[], Any]) -> None:
        """Do one thing with the model; what ran before it failed counts."""
        handles = [
            self._module.get_submodule(path).register_forward_pre_hook(self._make_usage_hook(path))
            for path in (*self._paths, *self.models)
        ]
        try:
            with torch.no_grad(), self, suppress(TrimodalError):
                run_foreign("it", enter)
        finally:
            for handle in handles:
                handle.remove()

    def _make_usage_hook(self, path: str) -> Callable[..., None]:
        return lambda *_: self.ran.add(path)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs or {})):
            if id(leaf) in self._owners and isinstance(leaf, Tensor):
                self.ran.add(self._owners[id(leaf)])
        return func(*args, **(kwargs or {}))


def _try_removal(module: nn.Module, paths: Sequence[str], batches: Sequence[Batch]) -> str:
    """Why the layers at `paths` are missed when all are gone, tried on `batches`; empty if nothing changes."""
    if not paths:
        return ""
    with torch.no_grad():
        before = [list(collect_tensors(run_forward(module, batch))) for batch in batches]
        try:
            with _hide_layers(module, paths):
                after = [list(collect_tensors(run_forward(module, batch))) for batch in batches]
        except TrimodalError as error:
            return f"never runs in what was seen, but without it the model does not run ({last_line_of(error.__cause__ or error)})"
    same = all(len(a) == len(b) and all(map(torch.equal, a, b)) for a, b in zip(before, after, strict=True))
    return "" if same else "never runs in what was seen, but without it the model's outputs change"


@contextmanager
def _hide_layers(module: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """Meanwhile the layers at `paths` are gone."""
    was = {path: module.get_submodule(path) for path in paths}
    try:
        for path, part in was.items():
            module.set_submodule(path, RemovedLayer(path, part))
        yield
    finally:
        for path, part in was.items():
            module.set_submodule(path, part)

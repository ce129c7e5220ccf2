"""Which neighbours can take over what a layer does, known from watching the model run rather than guessed.

Every layer with a weight is watched from outside: which tensor goes in, which comes out, and every operator that anybody
else carries out on one of these tensors or on a layer's weight. A tensor that only passes through (an identity, dropout
that is off) is the same object on the other side, so it needs no rule. From this follows

    norm      a batch norm in use reads what one convolution or linear layer wrote, and nobody else reads that
    affine    what a layer or RMS norm wrote is read by linear layers and by nobody else
    linear    what a linear layer wrote is read by one linear layer and by nobody else
    scale     a module that multiplies by one vector reads what one layer wrote, and nobody else reads that

each layer running once, with weights of its own. What the model returns counts as read, and so does what a model inside
of the model (a tower that people also use alone) returns. Whatever is found is tried on the very inputs that were seen.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import PreTrainedModel

from trimodal.core import Fold, Layout, Site
from trimodal.core.site import Folding, is_width
from trimodal.edits.fold import collect_fold_tensors, named_tensors
from trimodal.errors import ModelError
from trimodal.graph.dependency_graph import collect_tensors
from trimodal.graph.unused_layers import find_unused_layers
from trimodal.layers import FactorChain, strip_norm_affine
from trimodal.maths.affine_folding import fold_into_layers
from trimodal.models.foreign import run_foreign, run_forward
from trimodal.models.model import Batch, Model

LARGEST_ERROR = 1e-5  # ‖Δy‖/‖y‖
_PROBES = 16
_OTHER = ":"  # before the name of an operator that is no layer of its own
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_LINEAR_FORWARDS = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward)


def discover_folds(model: Model, batches: Sequence[Batch]) -> Layout:
    """The model's layout with its `folds`: what was seen on `batches`, else on the family's own example with noise."""
    examples = _make_noise_examples(model)
    watched = batches or examples
    try:
        seen = [_trace_batch(model, batch) for batch in watched]
    except ModelError:
        if batches:
            raise
        seen, watched, examples = [], (), ()  # its own example does not run
    keys = dict.fromkeys((fold.what, fold.path) for folds, _ in seen for fold in folds)
    agreed = [_reconcile_folds([(_find_fold(folds, *key), ran) for folds, ran in seen]) for key in keys]
    folds = (*find_unused_layers(model, watched, examples), *agreed, *find_duplicate_tensors(model.module, model.layout))
    return replace(model.layout, folds=folds, folds_searched=bool(watched))


def _find_fold(folds: Sequence[Fold], what: str, path: str) -> Fold | None:
    return next((fold for fold in folds if (fold.what, fold.path) == (what, path)), None)


def _reconcile_folds(seen: Sequence[tuple[Fold | None, set[str]]]) -> Fold:
    """One fold as it was seen in each batch, with the paths that ran there: it must hold wherever a part of it ran."""
    found = [fold for fold, _ in seen if fold is not None]
    parts = {part for fold in found for part in (fold.path, *fold.into)}
    refused = next((fold for fold in found if fold.reason), None)
    if refused is not None:
        return refused
    for fold, ran in seen:
        if parts & ran and (fold is None or set(fold.into) != set(found[0].into)):
            return replace(found[0], reason="another input takes another way through it")
    return replace(found[0], error=max(fold.error for fold in found))


def _make_noise_examples(model: Model) -> Sequence[Batch]:
    """The family's example with noise in place of what is not whole numbers; none if nobody can say."""
    noise = torch.Generator().manual_seed(0)
    try:
        example = model.example()
    except ModelError:
        return []

    def filled(value: Tensor) -> Tensor:
        drawn = torch.randn(value.shape, generator=noise)
        return drawn.to(value) if value.is_floating_point() else value

    return [tree_map_only(Tensor, filled, example)] if example else []


def _trace_batch(model: Model, batch: Batch) -> tuple[list[Fold], set[str]]:
    """What can be folded as seen on one batch, in running order, and the layers that ran."""
    watch = _FoldTracer(model)
    watch.run_batch(batch)
    with torch.no_grad():
        return [fold for path in list(watch.calls) for fold in watch.find_folds(path)], set(watch.calls)


class _FoldTracer(TorchDispatchMode):
    """Follows one forward pass: who wrote which tensor, who reads it, and who runs how often."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._module = model.module
        self._sites = {site.path: site for site in model.layout.sites}
        self._layers = {
            path: part
            for path, part in model.module.named_modules()
            if path in self._sites or _scale_vector_of(part) is not None
        }
        self._owners = {
            id(t): path for path, part in self._layers.items() for t in part._parameters.values() if t is not None
        }
        names = Counter(id(t) for t in named_tensors(model.module).values())
        self._shared = {
            path
            for path, part in self._layers.items()
            if any(names[id(t)] > 1 for t in part._parameters.values() if t is not None)
        }
        self.calls: Counter[str] = Counter()
        self._running: list[str] = []
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._odd: set[str] = set()
        self.touched: set[str] = set()
        self._asked: set[str] = set()
        self._writer: dict[int, str] = {}
        self._readers: dict[int, list[str]] = {}
        self._alive: list[Tensor] = []  # so that no two tensors have one id

    def run_batch(self, batch: Batch) -> None:
        """One forward pass, in eval mode and without gradients."""
        inner = [
            part for part in self._module.modules() if isinstance(part, PreTrainedModel) and part is not self._module
        ]
        handles = [part.register_forward_hook(lambda _, args, output: self._note_outputs(output)) for part in inner]
        for path, part in self._layers.items():
            handles.append(part.register_forward_pre_hook(self._make_pre_hook(path), with_kwargs=True))
            handles.append(part.register_forward_hook(self._make_post_hook(path), prepend=True))
        self._module.eval()
        try:
            with torch.no_grad(), self, _WeightQueryMode(self.note_weight_query):
                result = run_forward(self._module, batch)
            self._note_outputs(result)
        finally:
            for handle in handles:
                handle.remove()

    def note_weight_query(self, tensor: Any) -> None:
        """Somebody asks a weight for its type or the like, which a layer that is gone could not tell."""
        owner = self._owners.get(id(tensor))
        if owner is not None and owner not in self._running:
            self._asked.add(owner)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        here = self._running[-1] if self._running else ""
        for tensor in tree_leaves((args, kwargs or {})):
            if not isinstance(tensor, Tensor):
                continue
            if not here and id(tensor) in self._writer:
                self._readers[id(tensor)].append(f"{_OTHER}{func.__name__.partition('.')[0]}")
            if self._owners.get(id(tensor), here) != here:
                self.touched.add(self._owners[id(tensor)])
        return func(*args, **(kwargs or {}))

    def _make_pre_hook(self, path: str) -> Any:
        def enter(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.calls[path] += 1
            self._running.append(path)
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            for tensor in given:
                self._alive.append(tensor)
                self._readers.setdefault(id(tensor), []).append(path)
            if len(given) == 1 and not part.training:
                self._inputs[path], self._versions[path] = given[0], _version_of(given[0])
            else:
                self._odd.add(path)
            self._check_inputs_unchanged(given)

        return enter

    def _check_inputs_unchanged(self, given: Sequence[Tensor]) -> None:
        """Whether what was read to make the tensors `given` is still what it was then."""
        for writer in (self._writer.get(id(tensor), "") for tensor in given):
            if writer in self._inputs and _version_of(self._inputs[writer]) != self._versions[writer]:
                self._odd.add(writer)

    def _make_post_hook(self, path: str) -> Any:
        def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._running.pop()
            if isinstance(output, Tensor) and id(output) not in self._readers:
                self._alive.append(output)
                self._outputs[path] = output
                self._writer[id(output)] = path
                self._readers[id(output)] = []
            else:
                self._odd.add(path)

        return leave

    def _note_outputs(self, result: Any) -> None:
        for tensor in collect_tensors(result):
            if id(tensor) in self._writer:
                self._readers[id(tensor)].append(f"{_OTHER}output")

    def find_folds(self, path: str) -> Iterator[Fold]:
        """What can be folded of the layer at `path`; of a norm the reason too if it cannot."""
        site, part = self._sites.get(path), self._layers[path]
        if site is None:
            found = self._fold_into_writer("scale", path)
            if not found.reason:
                yield replace(found, tensor_bytes=sum(t.numel() * t.element_size() for t in part.parameters()))
        elif isinstance(part, _BATCH_NORMS) and site.running:
            yield self._fold_into_writer("norm", path, part.eps)
        elif site.kind == "norm":
            yield self._fold_into_readers("affine", path)
        elif site.kind == "linear":
            found = self._fold_into_readers("linear", path)
            if not found.reason and len(found.into) == 1:
                yield found

    def _fold_into_writer(self, what: Folding, path: str, epsilon: float = 0.0) -> Fold:
        """`path` into the layer that wrote what it reads."""
        tensor = self._inputs.get(path)
        writer = self._writer.get(id(tensor), "")
        if tensor is None or not self._is_layer_of_kind(writer, ("linear", "conv")):
            return Fold(what, path, reason="what it reads was not written by a convolution or a linear layer")
        fold = Fold(what, path, (writer,), epsilon=epsilon)
        if self._readers[id(tensor)] != [path]:
            return replace(fold, reason=f"others read what {writer} writes too")
        kind = self._sites[writer].kind
        if (kind == "conv" and what == "scale") or (kind == "linear" and what == "norm" and tensor.dim() != 2):
            return replace(fold, reason=f"it works along another dimension than {writer}")
        return self._try_fold(fold)

    def _fold_into_readers(self, what: Folding, path: str) -> Fold:
        """`path` into all the layers that read what it writes."""
        tensor = self._outputs.get(path)
        readers = tuple(dict.fromkeys(self._readers.get(id(tensor), ())))
        if tensor is None or not readers:
            return Fold(what, path, reason="nobody reads it")
        other = next((reader for reader in readers if not self._is_layer_of_kind(reader, ("linear",))), "")
        if other:
            return Fold(what, path, reason=f"not only linear layers read it: {other.removeprefix(_OTHER)}")
        fold = Fold(what, path, readers)
        if what == "affine":
            offset = norm_offset_of(self._layers[path])
            if offset is None:
                return replace(fold, reason="it is neither a plain layer norm nor a plain RMS norm")
            fold = replace(fold, offset=offset)
        return self._try_fold(fold)

    def _is_layer_of_kind(self, path: str, kinds: Sequence[str]) -> bool:
        return path in self._sites and self._sites[path].kind in kinds

    def _try_fold(self, fold: Fold) -> Fold:
        """The fold with the error that it makes, or with the reason why it cannot be."""
        trouble = f"the model asks for the weight of {fold.path}" if fold.path in self._asked else ""
        trouble = next((t for path in (fold.path, *fold.into) if (t := self._find_obstacle(path))), trouble)
        if trouble:
            return replace(fold, reason=trouble)
        error = self._measure_error(fold)
        reason = (
            "" if error <= LARGEST_ERROR else f"folding it makes an error of {error:.1e}, more than {LARGEST_ERROR:g}"
        )
        return replace(fold, error=error, reason=reason)

    def _find_obstacle(self, path: str) -> str:
        """Why nothing can be folded of or into the layer at `path`, empty if it can."""
        part, site = self._layers[path], self._sites.get(path)
        if self.calls[path] != 1:
            return f"{path} runs {self.calls[path]} times"
        if path in self._odd:
            return f"{path} does not just make one tensor of another, or still learns"
        if path in self.touched or path in self._shared:
            return f"the weight of {path} is used elsewhere too"
        if site is not None and site.stored != "dense":
            return f"{path} is already {site.stored}"
        if site is not None and site.kind in ("linear", "conv") and type(part).forward not in _LINEAR_FORWARDS:
            return f"{path} computes in a way of its own"
        if isinstance(self._module.get_submodule(path.rpartition(".")[0]), FactorChain):
            return f"{path} is a factor of a factorised layer"
        return ""

    def _measure_error(self, fold: Fold) -> float:
        """The largest ‖Δy‖/‖y‖ of the layers that take it over, each with the inputs that were seen."""
        new = fold_into_layers(fold, collect_fold_tensors(self._module, fold))
        gone, errors = self._layers[fold.path], []
        for path in fold.into:
            layer = self._layers[path]
            if fold.what in ("norm", "scale"):
                given = self._inputs[path]
                before, after = gone(layer(given)), _run_with_weights(layer, path, new, given)
            else:
                given = self._inputs[fold.path]
                plain = strip_norm_affine(gone)(given) if fold.what == "affine" else given
                before, after = layer(gone(given)), _run_with_weights(layer, path, new, plain)
            errors.append(_relative_error(after, before))
        return max(errors)


class _WeightQueryMode(TorchFunctionMode):
    """Tells `asked` of every tensor of which an attribute is read or a function taken."""

    def __init__(self, asked: Callable[[Any], None]) -> None:
        super().__init__()
        self._asked = asked

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for argument in args:
            self._asked(argument)
        return func(*args, **(kwargs or {}))


def _version_of(tensor: Tensor) -> int:
    """How often it was changed in place, as far as that is known."""
    return 0 if tensor.is_inference() else tensor._version


def _run_with_weights(layer: nn.Module, path: str, new: Mapping[str, Tensor], given: Tensor) -> Tensor:
    """What the layer computes with its new weight and bias."""
    old: Tensor = layer.weight  # type: ignore[assignment]
    weight, bias = (new[name].to(old) if name in new else None for name in (f"{path}.weight", f"{path}.bias"))
    assert weight is not None
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        made: Tensor = layer._conv_forward(given, weight, bias)
        return made
    return F.linear(given, weight, bias)


def _relative_error(after: Tensor, before: Tensor) -> float:
    change, whole = ((t.double()).norm() for t in (after.double() - before.double(), before))
    if not bool(torch.isfinite(change)):
        return math.inf
    return float(change / whole) if float(whole) else (0.0 if not float(change) else math.inf)


def norm_offset_of(norm: nn.Module) -> float | None:
    """What is added to the weight of a layer or RMS norm before multiplying with it, tried out: 0, or 1 for norms such as
    Gemma's; None if neither is what it computes."""
    norm = copy.deepcopy(norm).float()
    weight, bias = norm._parameters.get("weight"), norm._parameters.get("bias")
    if weight is None or weight.dim() != 1 or isinstance(norm, nn.GroupNorm):
        return None
    noise = torch.Generator().manual_seed(0)
    given = 1.0 + 2.0 * torch.randn(_PROBES, len(weight), generator=noise).to(weight)
    try:
        with torch.no_grad():
            made, plain = run_foreign("the norm", lambda: norm(given)), strip_norm_affine(norm)(given)
    except (ModelError, RuntimeError, TypeError, ValueError, LookupError):
        return None
    for offset in (0.0, 1.0):
        expected = plain * (weight.detach() + offset) + (0.0 if bias is None else bias.detach())
        if isinstance(made, Tensor) and made.shape == expected.shape and _relative_error(expected, made) <= LARGEST_ERROR:
            return offset
    return None


def _scale_vector_of(part: nn.Module) -> Tensor | None:
    """The vector that a module multiplies by, if that is all it does, tried out; else None."""
    own = [tensor for tensor in part._parameters.values() if tensor is not None]
    if len(own) != 1 or part._buffers or part._modules or own[0].dim() != 1 or not own[0].is_floating_point():
        return None
    noise = torch.Generator().manual_seed(0)
    given = torch.randn(_PROBES, len(own[0]), generator=noise).to(own[0])
    try:
        with torch.no_grad():
            made = run_foreign("the layer", lambda: part(given))
    except ModelError:
        return None
    fits = isinstance(made, Tensor) and made.shape == given.shape and bool(torch.equal(made, given * own[0]))
    return own[0] if fits else None


def find_duplicate_tensors(module: nn.Module, layout: Layout) -> list[Fold]:
    """Tensors that a checkpoint holds twice, the later with the earlier: weights of layers without axes, and what stands
    outside of layers."""
    sites = {site.path: site for site in layout.sites}
    closed = tuple(f"{site.path}." for site in layout.sites)
    alike: dict[Any, list[tuple[str, Tensor]]] = {}
    known: set[int] = set()
    held = module.state_dict().keys()
    for name, tensor in named_tensors(module).items():
        path = name.rpartition(".")[0]
        fits = _is_free_weight(sites[path], name) if path in sites else not name.startswith(closed)
        if name in held and fits and tensor.numel() > 1 and tensor.data_ptr() not in known and not tensor.is_meta:
            known.add(tensor.data_ptr())
            key = (path in sites, isinstance(tensor, nn.Parameter), tensor.dtype, tensor.shape)
            alike.setdefault(key, []).append((name, tensor))
    return [fold for group in alike.values() if len(group) > 1 for fold in _find_equal_tensors(group, in_sites=sites)]


def _is_free_weight(site: Site, name: str) -> bool:
    """Whether `name` is a weight that nothing else hangs on but the stream that it reads or writes to."""
    plain = site.kind != "norm" and site.stored == "dense" and not site.bias
    free = all(axis is None or is_width(axis.label) for axis in (site.input_axis, site.output_axis))
    return plain and name.endswith(".weight") and free


def _find_equal_tensors(group: Sequence[tuple[str, Tensor]], in_sites: Mapping[str, Site]) -> Iterator[Fold]:
    first: dict[bytes, str] = {}
    for name, tensor in group:
        plain = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        kept = first.setdefault(hashlib.sha256(plain.numpy().data).digest(), name)
        if kept != name:
            size = 0 if name.rpartition(".")[0] in in_sites else tensor.numel() * tensor.element_size()
            yield Fold("twin", name, (kept,), tensor_bytes=size)

"""What is worked out from stored tensors once and then kept, for as long as these stay what they are.

A layer that takes its weight from a store decodes it at every call under the policy `memory`, which is every store's own until
somebody asks for another. Under `speed` it decodes at the first call and keeps the result beside what is stored, which costs the
memory that the weight took before it was compressed. What is kept is no parameter, no buffer and no part of the state dict, so
it is neither counted nor saved, and copies and pickles are made without it.

It is used only while every tensor behind it is the very object, of the same version, that it was made from: `load_state_dict`,
an optimiser, `to`, `half` and new options of a table all lead to a new one. A change in place through `tensor.data` leaves no
trace that PyTorch shows; after one, `set_dequantize_policy_` starts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from trimodal.errors import InputError

DequantizePolicy = Literal["speed", "memory"]
DEQUANTIZE_POLICIES: tuple[DequantizePolicy, ...] = get_args(DequantizePolicy)
Made = TypeVar("Made")
Held = Mapping[str, Tensor | None]
"""The parameters or the buffers of a module, by name."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A tensor where it was found, its version (None for one that has none), and where a parameter's numbers lie, since its
    `data` can be replaced."""

    held: Held
    name: str
    tensor: Tensor
    version: int | None
    pointer: int | None


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was made, what of, and which of that may be trained."""

    made: Any
    sources: tuple[_Source, ...]
    trained: tuple[Tensor, ...]

    def is_current(self) -> bool:
        """Whether it may be used: nothing behind it has changed, and nobody wants gradients through it."""
        for source in self.sources:
            tensor = source.tensor
            if source.held.get(source.name) is not tensor:
                return False
            if source.version is not None and tensor._version != source.version:
                return False
            if source.pointer is not None and tensor.data_ptr() != source.pointer:
                return False
        return not (self.trained and _wants_gradients(self.trained))


class WeightKeeper(nn.Module):
    """A module that works something out from its tensors and may keep it."""

    dequantize_policy: DequantizePolicy = "memory"

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, _Kept] = {}

    def list_tensors_behind(self) -> Iterator[tuple[Held, str]]:
        """Where the tensors are of which the weight is made."""
        for held in (self._parameters, self._buffers):
            for name in held:
                yield held, name

    def recall(self, what: str, make: Callable[[], Made]) -> Made:
        """What `make` returns, made now or, under the policy `speed`, kept from before under the name `what`."""
        if self.dequantize_policy == "memory" or torch.compiler.is_compiling():
            return make()
        kept = self._kept.get(what)
        if kept is not None and kept.is_current():
            return cast("Made", kept.made)
        return self._keep(what, make)

    def _keep(self, what: str, make: Callable[[], Made]) -> Made:
        self._kept.pop(what, None)
        found = [(held, name, tensor) for held, name in self.list_tensors_behind() if (tensor := held[name]) is not None]
        trained = tuple(tensor for _, _, tensor in found if isinstance(tensor, nn.Parameter) and tensor.is_floating_point())
        if _wants_gradients(trained) or not all(map(_has_values, (torch.empty(0), *(tensor for *_, tensor in found)))):
            return make()
        with torch.inference_mode(False), torch.no_grad():  # what is kept may be used in any mode later
            made = make()
        self._kept[what] = _Kept(made, tuple(_describe_source(*source) for source in found), trained)
        return made

    def drop_kept_(self) -> None:
        """Forget what was worked out."""
        self._kept.clear()

    @property
    def kept_bytes(self) -> int:
        """Bytes of the tensors that are kept beside what is stored."""
        return sum(leaf.nbytes for kept in self._kept.values() for leaf in tree_leaves(_open(kept.made)) if isinstance(leaf, Tensor))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WeightKeeper:
        self._kept.clear()
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **rest: Any) -> None:
        self._kept.clear()
        super()._load_from_state_dict(*args, **rest)

    def __getstate__(self) -> MutableMapping[str, Any]:
        return {**vars(self), "_kept": {}}


def set_dequantize_policy_(module: nn.Module, policy: DequantizePolicy) -> None:
    """Let every stored weight in `module` be decoded at every call (`memory`), or at the first and be kept (`speed`). What was
    kept so far is dropped.

    Raises:
        InputError: there is no such policy.
    """
    if policy not in DEQUANTIZE_POLICIES:
        raise InputError(f"no policy for decoding is called {policy!r:.40}; expected {' or '.join(DEQUANTIZE_POLICIES)}")
    for part in module.modules():
        if isinstance(part, WeightKeeper):
            part.drop_kept_()
            part.dequantize_policy = policy


def count_kept_bytes(module: nn.Module) -> int:
    """Bytes that decoded weights take in `module` now, beside what is stored."""
    return sum(part.kept_bytes for part in module.modules() if isinstance(part, WeightKeeper))


def _describe_source(held: Held, name: str, tensor: Tensor) -> _Source:
    version = None if tensor.is_inference() else tensor._version
    return _Source(held, name, tensor, version, tensor.data_ptr() if isinstance(tensor, nn.Parameter) else None)


def _wants_gradients(trained: tuple[Tensor, ...]) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in trained)


def _has_values(tensor: Tensor) -> bool:
    """Whether it is a plain tensor with numbers in it, and no stand-in that a tracer put there."""
    return type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta


def _open(made: Any) -> Any:
    """`made` as what the search for tensors looks into."""
    return vars(made) if hasattr(made, "__dict__") and not isinstance(made, Tensor) else made

"""Experts whose weights are fused into one tensor, opened up: one layer per fused tensor, called once per expert.

Transformers keeps the experts of a block in one module with two parameters, and computes with slices of them:

    gate_up_proj  (experts, out, in)     down_proj  (experts, out, in)     the other way round, (experts, in, out), in GPT-OSS's kin

so that nothing can observe or replace one. Opened there is a `ExpertMatrix` for each, at `matrices.gate_up_proj` and `matrices.down_proj`,
with the weight (experts · out, in): rows are outputs, as everywhere, expert after expert. The parameter's old name reads it in the old
form. As long as the weights are plain and nobody listens, the module computes as its class does; else it goes through the experts one
by one, by the contract that Transformers' own implementations share (`use_experts_implementation`: gate, bias, norm), and
decodes no more than the expert it is at.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.layers.opened import OpenedLayer, copy_state, has_hooks
from trimodal.layers.stored import CodedWeight, SparseWeight, StoredWeight

_CONTRACT = ("has_gate", "has_bias", "is_transposed", "has_post_expert_norm", "_apply_gate", "num_experts")
_MATRICES = "matrices"
_WAYS = "transformers.integrations.moe"  # imported with every class of experts, and too much to import for others


class ExpertMatrix(nn.Module):
    """A fused weight (groups · out, in), `groups` experts one after the other, of which each call uses one."""

    def __init__(self, weight: nn.Parameter, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = weight

    def extra_repr(self) -> str:
        """For printing."""
        return f"{self.groups} experts"

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """x (tokens, in) -> (tokens, out) through number `expert`."""
        return nn.functional.linear(x, self._weight_of(expert))

    def _weight_of(self, expert: int) -> Tensor:
        store = getattr(self, "stored", None)
        if isinstance(store, CodedWeight | SparseWeight) and store.dequantize_policy == "memory":
            rows = store.shape[0] // self.groups
            return store.decode_rows(torch.arange(expert * rows, (expert + 1) * rows, device=next(store.buffers()).device))
        rows = self.weight.shape[0] // self.groups
        return self.weight[expert * rows : (expert + 1) * rows]


class OpenedExperts(OpenedLayer):
    """What the classes made by `open_experts` have in common. Each is a subclass of the experts' own class too."""

    loops = True  # the own class goes through the experts that are chosen
    matrices: nn.ModuleDict

    def close_tensors(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The fused tensors under their own names."""
        found = {}
        for name, tensor in own.items():
            kind, _, rest = name.partition(".")
            fused = rest.removesuffix(".weight")
            found[fused if kind == _MATRICES and fused != rest else name] = (
                self._fuse(tensor).contiguous() if kind == _MATRICES and fused != rest else tensor
            )
        return found

    def make_original(self) -> nn.Module:
        """A module of the experts' own class, of which the fused tensors have no values."""
        made: Any = object.__new__(type(self).__bases__[1])
        made.__dict__ = copy_state(self)
        del made._modules[_MATRICES]
        for name, matrix in self.matrices.items():
            made._parameters[name] = nn.Parameter(self._fuse(matrix.weight).to("meta").contiguous())  # type: ignore[arg-type]
        return made  # type: ignore[no-any-return]

    def read_fused(self, name: str) -> Tensor:
        """The weight called `name` in the form that the experts' class has it in: (experts, …, …)."""
        weight: Any = self.matrices[name].weight
        return self._fuse(weight)

    def _fuse(self, weight: Tensor) -> Tensor:
        whole = weight.view(int(self.num_experts), -1, weight.shape[1])  # type: ignore[arg-type]
        return whole.transpose(1, 2) if self.is_transposed else whole

    def run_experts(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """hidden (tokens, width), the experts of each token `index` (tokens, k) and what these count for, `weights` (tokens, k) ->
        (tokens, width): expert by expert, in ascending order."""
        layer: Any = self
        up, result = "gate_up_proj" if layer.has_gate else "up_proj", torch.zeros_like(hidden)
        for expert in index.unique().tolist():
            if expert >= layer.num_experts:
                continue  # a token without an expert here
            tokens, places = torch.where(index == expert)
            y = self._multiply(up, hidden[tokens], expert)
            y = self._multiply("down_proj", layer._apply_gate(y) if layer.has_gate else layer.act_fn(y), expert)
            y = layer.post_expert_norm(y) if layer.has_post_expert_norm else y
            result.index_add_(0, tokens, (y * weights[tokens, places, None]).to(result.dtype))
        return result

    def _multiply(self, name: str, x: Tensor, expert: int) -> Tensor:
        y: Tensor = self.matrices[name](x, expert)
        return y + getattr(self, f"{name}_bias")[expert] if self.has_bias else y


def can_open_experts(part: nn.Module) -> bool:
    """Whether `part` has fused experts by the contract of Transformers."""
    if isinstance(part, OpenedLayer) or not all(hasattr(part, name) for name in _CONTRACT):
        return False
    found = [part._parameters.get(name) for name in _list_names(part)]
    return all(tensor is not None and tensor.dim() == 3 and len(tensor) == part.num_experts for tensor in found)


def open_experts(part: nn.Module) -> nn.Module:
    """The same experts, with a layer per fused tensor."""
    return open_fused_tensors(part, _list_names(part), OpenedExperts)


def open_fused_tensors(part: nn.Module, names: tuple[str, ...], base: type[OpenedExperts]) -> nn.Module:
    """`part` as a `base`, with a layer for each of its fused tensors called `names`."""
    opened: Any = _rebuild_opened_experts(type(part), names, base)
    opened.__dict__ = copy_state(part)
    matrices = nn.ModuleDict()
    for name in names:
        fused = opened._parameters.pop(name)
        rows = fused.detach().transpose(1, 2) if opened.is_transposed else fused.detach()
        weight = nn.Parameter(rows.contiguous().flatten(0, 1), requires_grad=fused.requires_grad)
        matrices[name] = ExpertMatrix(weight, len(fused))
    opened._modules[_MATRICES] = matrices.train(part.training)
    return opened  # type: ignore[no-any-return]


def _list_names(part: nn.Module) -> tuple[str, str]:
    return ("gate_up_proj" if part.has_gate else "up_proj", "down_proj")


@cache
def _make_opened_class(kind: type[nn.Module], names: tuple[str, ...], base: type[OpenedExperts]) -> type[nn.Module]:
    def forward(experts: Any, *args: Any, **named: Any) -> Any:
        if _must_be_called(experts):
            return experts.run_experts(*args, *named.values())
        if torch.compiler.is_exporting() and base.loops:  # a traced graph has no loop over those that are chosen: all, gathered per token
            return sys.modules[_WAYS].batched_mm_experts_forward(experts, *args, *named.values())
        return kind.forward(experts, *args, **named)

    members: dict[str, Any] = {
        **{name: property(partial(_read_fused, name=name)) for name in names},
        "forward": forward, "__module__": __name__,
        "__reduce__": lambda experts: (_rebuild_opened_experts, (kind, names, base), vars(experts)),
    }  # fmt: skip
    return type(f"Opened{kind.__name__}", (base, kind), members)


def _read_fused(experts: OpenedExperts, name: str) -> Tensor:
    return experts.read_fused(name)


def _rebuild_opened_experts(kind: type[nn.Module], names: tuple[str, ...], base: type[OpenedExperts]) -> nn.Module:
    """An empty module for a copy or a pickle to fill: its class has no name that could be imported."""
    made: nn.Module = object.__new__(_make_opened_class(kind, names, base))  # type: ignore[arg-type]
    return made


def _must_be_called(experts: OpenedExperts) -> bool:
    """Whether it is not enough to read the fused weights: somebody listens, or they are stored in another form."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    matrices = experts.matrices.values()
    stores = [getattr(matrix, "stored", None) for matrix in matrices]
    if any(tensor.is_meta for matrix in matrices for tensor in (*matrix.parameters(), *matrix.buffers())):
        return False
    return any(map(has_hooks, matrices)) or any(isinstance(store, StoredWeight) for store in stores)

"""Low-rank adapters on a model that is frozen: LoRA (Hu et al. 2021, arXiv 2106.09685) and DoRA (Liu et al. 2024, arXiv 2402.09353), by
the library peft.

    W x  becomes  (W + s·B A) x,      B (m, r), A (r, n), s = alpha / r
    DoRA          d ∘ (W + s·B A) x,  d = magnitude / ‖W + s·B A‖ per row, the magnitude is trained too

W stays as it is and may be coded or pruned: peft's layer calls the one that it stands in for. What is trained is what will be stored: A
sees a quantized input as the codes see it, and of B A nothing counts where W is pruned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.edits.edit import replace_module_
from trimodal.errors import InputError
from trimodal.layers import CodedWeight, SparseWeight

_NAME = "default"
Factors = tuple[Tensor, Tensor]
"""left (m, r) and right (r, n)."""


@dataclass(frozen=True)
class AdapterSettings:
    """What one layer gets: the pair's `rank`, `alpha` (its scale is alpha / rank), whether rows are scaled too, and with what it begins;
    without `start` as peft does, with B = 0."""

    rank: int
    alpha: float
    dora: bool = False
    start: Factors | None = None


@dataclass(frozen=True)
class WeightUpdate:
    """What adapters add to a weight seen as a matrix: rows `factor` (m,) · (W + left right), left (m, r) and right (r, n), float32; the
    factor is None where rows are not scaled. With a `mask` (m, n) nothing is added to what is pruned."""

    left: Tensor
    right: Tensor
    factor: Tensor | None
    mask: Tensor | None = None

    def apply(self, weight: Tensor) -> Tensor:
        """The weight (m, …) of a layer with it, float32."""
        added = self.left @ self.right
        whole = weight.float().flatten(1) + (added if self.mask is None else added * self.mask)
        return (whole if self.factor is None else whole * self.factor[:, None]).view(weight.shape)


def can_adapt(layer: nn.Module) -> bool:
    """Whether peft knows how to stand in for `layer`: a linear layer, or a convolution that is not grouped."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return layer.groups == 1
    return isinstance(layer, nn.Linear)


class AttachedAdapters:
    """The adapters of a model by the path of their layers, while they are there."""

    def __init__(self, layers: Mapping[str, Any]) -> None:
        self._layers = dict(layers)

    def count_parameters(self) -> int:
        """Numbers that are trained."""
        return sum(p.numel() for layer in self._layers.values() for p in layer.parameters() if p.requires_grad)

    @torch.no_grad()
    def read(self, path: str) -> WeightUpdate:
        """What the adapter at `path` adds to its layer's weight now."""
        layer = self._layers[path]
        right = layer.lora_A[_NAME].weight.detach().float().flatten(1)
        left = layer.lora_B[_NAME].weight.detach().float().flatten(1) * layer.scaling[_NAME]
        plain = layer.get_base_layer()
        found = WeightUpdate(left, right, None, _find_mask(plain))
        if _NAME not in layer.lora_magnitude_vector:
            return found
        size = layer.lora_magnitude_vector[_NAME].weight.detach().float().flatten()
        norms = found.apply(_read_weight(plain)).flatten(1).norm(dim=1)
        return replace(found, factor=size / norms.clamp(min=torch.finfo(norms.dtype).tiny))


@contextmanager
def attach_adapters(module: nn.Module, settings: Mapping[str, AdapterSettings], seed: int) -> Iterator[AttachedAdapters]:
    """While open, the layers of `module` at the paths of `settings` have adapters, and these are all that is trained; afterwards the
    module is as it was.

    Raises:
        InputError: peft is not installed.
    """
    trained = {parameter: parameter.requires_grad for parameter in module.parameters()}
    torch.manual_seed(seed)
    _inject(module, settings)
    layers = {path: _get_layer(module, path) for path in settings}
    try:
        for path, layer in layers.items():
            _use_everywhere(module, layer)
            _place_beside(layer)
            _begin_at(layer, settings[path].start)
            _quantize_input(layer)
            _keep_mask(layer)
        yield AttachedAdapters(layers)
    finally:
        for layer in layers.values():
            vars(_get_store(layer.get_base_layer())).pop("forward", None)
            replace_module_(module, layer, layer.get_base_layer())
        for parameter, asked in trained.items():
            parameter.requires_grad_(asked)
        vars(module).pop("peft_config", None)


def _get_layer(module: nn.Module, path: str) -> Any:
    return module.get_submodule(path)


def _inject(module: nn.Module, settings: Mapping[str, AdapterSettings]) -> None:
    """Let peft stand in for the layers; layers with like settings at once."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError("low-rank adapters need the package peft; run pip install 'trimodal[train]'") from error
    first = next(iter(settings.values()))
    exactly: Callable[[str], str] = lambda path: f"^{re.escape(path)}$"  # noqa: E731
    config = LoraConfig(
        r=first.rank, lora_alpha=first.alpha,  # type: ignore[arg-type]  # any number will do
        use_dora=first.dora, target_modules="|".join(map(re.escape, settings)),
        rank_pattern={exactly(path): one.rank for path, one in settings.items()},
        alpha_pattern={exactly(path): one.alpha for path, one in settings.items()},
    )  # fmt: skip
    inject_adapter_in_model(config, module, _NAME)


def _use_everywhere(module: nn.Module, layer: Any) -> None:
    """Let the adapter stand wherever its layer does: peft finds a layer that is used twice but once. It has the layer's sizes, stride and
    the like, which some models ask for."""
    plain = layer.get_base_layer()
    for name in getattr(plain, "__constants__", ()):
        if not hasattr(layer, name):
            setattr(layer, name, getattr(plain, name))
    for parent in [part for part in module.modules() if part is not layer]:
        for name, child in parent._modules.items():
            if child is plain:
                parent._modules[name] = layer


def _place_beside(layer: Any) -> None:
    """Put the adapter where its layer's weight is."""
    device = layer.get_base_layer().weight.device
    for name, parameter in layer.named_parameters():
        if not name.startswith("base_layer."):
            parameter.data = parameter.data.to(device)


@torch.no_grad()
def _begin_at(layer: Any, start: Factors | None) -> None:
    """Let the adapter begin as `start`."""
    if start is None:
        return
    a, b = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
    left, right = start
    a.copy_(right.view_as(a))
    b.copy_((left / layer.scaling[_NAME]).view_as(b))
    if _NAME in layer.lora_magnitude_vector:
        layer.lora_magnitude_vector[_NAME].update_layer(base_layer=layer.get_base_layer(), lora_A=a, lora_B=b, scaling=layer.scaling[_NAME])


def _quantize_input(layer: Any) -> None:
    """Let A see the layer's input as the codes see it."""
    store = getattr(layer.get_base_layer(), "stored", None)
    if isinstance(store, CodedWeight) and store.quantizes_inputs:
        seen = store.fake_quantize_input
        layer.lora_A[_NAME].register_forward_pre_hook(lambda part, given: (seen(given[0]),))


def _keep_mask(layer: Any) -> None:
    """Where the weight is pruned, let the layer compute with the masked product as a part of its weight."""
    plain = layer.get_base_layer()
    store, mask = _get_store(plain), _find_mask(plain)
    if mask is None:
        return
    a, b = layer.lora_A[_NAME], layer.lora_B[_NAME]
    size = layer.lora_magnitude_vector[_NAME].weight if _NAME in layer.lora_magnitude_vector else None

    def add_product() -> Tensor:
        whole = type(store).forward(store)
        rows = whole.flatten(1) + mask * (b.weight.flatten(1) @ a.weight.flatten(1)) * layer.scaling[_NAME]
        if size is not None:
            rows = rows * (size.flatten() / rows.detach().norm(dim=1).clamp(min=1e-12))[:, None]
        found: Tensor = rows.view_as(whole)
        return found

    store.forward = add_product  # of this store alone, while it is trained
    layer.forward = plain.forward


def _get_store(layer: Any) -> Any:
    return getattr(layer, "stored", layer)


def _find_mask(layer: Any) -> Tensor | None:
    """Which weights (m, n) of a pruned layer are left, None for others."""
    store = _get_store(layer)
    return store.kept_mask if isinstance(store, SparseWeight) else None


def _read_weight(layer: Any) -> Tensor:
    """The weight without what is added while it is trained."""
    store = _get_store(layer)
    weight: Tensor = layer.weight if store is layer else type(store).forward(store)
    return weight.detach().float()


def balance_factors(left: Tensor, right: Tensor) -> Factors:
    """The same product, each of its r terms shared out so that column of `left` and row of `right` are of one length, float32: what
    trains both at one rate moves both alike."""
    ratio = (right.norm(dim=1) / left.norm(dim=0).clamp(min=torch.finfo(left.dtype).tiny)).sqrt()
    safe = torch.where(ratio > 0, ratio, torch.ones_like(ratio))
    return (left * ratio).float().contiguous(), (right / safe[:, None]).float().contiguous()

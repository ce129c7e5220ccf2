"""Several layers in a row in place of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.layers.kept_weight import Held, WeightKeeper
from trimodal.layers.transposed import TransposedLinear
from trimodal.layers.weight_sharing import has_shared_weight

Convolution = nn.Conv1d | nn.Conv2d


class FactorChain(WeightKeeper):
    """The links `first`, `second` and so on, which `core/storage.py` lists for every kind of chain.

    All are plain layers that later steps may quantize; the last one holds the bias. For an embedding `first` is the
    embedding. Of a convolution's links some are 1 × 1, and each dimension of the kernel is the matter of one link alone,
    which has the stride, padding and dilation along it.
    """

    def __init__(self, links: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, link in links.items():
            self.add_module(name, link)

    @property
    def weight(self) -> Tensor:
        """The product of all links, in the shape of the weight it stands for."""
        return self.recall("weight", self.multiply_links)

    def list_tensors_behind(self) -> Iterator[tuple[Held, str]]:
        """Where the weights of all links are, or what these are made of."""
        for link in self.children():
            source: Any = link
            while has_shared_weight(source):
                source = source.lender
            source = getattr(source, "stored", source)
            if isinstance(source, WeightKeeper):
                yield from source.list_tensors_behind()
            else:
                yield source._parameters, "weight"

    def multiply_links(self) -> Tensor:
        """The product of all links (rows, columns), worked out now."""
        first, *rest = self.children()
        whole, looks_up = _require_weight(first), isinstance(_find_plain_layer(first), nn.Embedding)
        for link in rest:
            whole = whole @ _require_weight(link).T if looks_up else _compose_weights(whole, link)
        return whole

    @property
    def bias(self) -> Tensor | None:
        """The bias (rows,), which the last layer holds."""
        *_, last = self.children()
        return last.bias if isinstance(last.bias, Tensor) else None

    def forward(self, x: Tensor) -> Tensor:
        """What the replaced layer took, (…, columns) or an image, -> what it gave, (…, rows) or an image."""
        for link in self.children():
            x = link(x)
        return x


class ResidualChain(FactorChain):
    """The links `first` and `second`, one after the other, and beside them `base`, whose weight other layers may use
    too; what both give is added. `base` holds the bias."""

    def multiply_links(self) -> Tensor:
        """The weight it stands for, (m, n), worked out now."""
        first, second, base = map(_require_weight, self.children())
        return base + second @ first

    def forward(self, x: Tensor) -> Tensor:
        """What the replaced layer took, (…, columns) or an image, -> what it gave, (…, rows) or an image."""
        first, second, base = self.children()
        found: Tensor = base(x) + second(first(x))
        return found


def build_factor_chain(old: nn.Module, kind: str, tensors: Mapping[str, Tensor], bias: nn.Parameter | None) -> FactorChain:
    """The links of a chain of `kind` around `tensors`, in place of `old`; the shapes are those in `core/storage.py`, `bias` is
    (rows,)."""
    if isinstance(old, Convolution):
        windows = _link_windows(old, kind)
        links = {name: _make_convolution(old, t, window) for (name, t), window in zip(tensors.items(), windows, strict=True)}
    elif isinstance(old, nn.Linear | nn.Embedding) and kind in ("low_rank", "residual"):
        links = {name: _make_linear(tensor) for name, tensor in tensors.items()}
        if isinstance(old, nn.Embedding):
            rows, rank = tensors["first"].shape
            links["first"] = nn.Embedding(rows, rank, padding_idx=old.padding_idx, device="meta")
    else:
        raise TypeError(f"no {kind} form of {type(old).__name__}")
    for link, tensor in zip(links.values(), tensors.values(), strict=True):
        link.weight = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
    *_, last = links.values()
    last.bias = bias  # type: ignore[assignment]
    found = ResidualChain(links) if kind == "residual" else FactorChain(links)
    for name in getattr(old, "__constants__", ()):  # sizes, stride and the like, which some models ask for
        setattr(found, name, getattr(old, name))
    return found


def merge_factor_chain(links: FactorChain) -> nn.Module:
    """One plain layer with the product of all links, none of which is a chain itself."""
    first, weight, old = next(links.children()), links.weight.detach().contiguous(), vars(links)
    if isinstance(first, nn.Embedding):
        layer: nn.Module = nn.Embedding(weight.shape[0], weight.shape[1], padding_idx=first.padding_idx, device="meta")
    elif isinstance(first, Convolution):
        shape = (old["kernel_size"], old["stride"], old["padding"], old["dilation"], 1, False, old["padding_mode"])
        layer = type(first)(weight.shape[1], weight.shape[0], *shape, device="meta")
    else:
        kind = TransposedLinear if old.get("was_transposed") else nn.Linear
        layer = kind(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight)
    if not isinstance(first, nn.Embedding):
        layer.bias = links.bias  # type: ignore[assignment]
    return layer


def _link_windows(old: Convolution, kind: str) -> list[dict[str, Any]]:
    """Which part of the kernel's movement each link has: all of it, none (1 × 1), or that along one dimension."""
    whole = {"stride": old.stride, "padding": old.padding, "dilation": old.dilation, "padding_mode": old.padding_mode}
    if kind == "cp":
        return [{}, *(_window_along(old, dim, whole) for dim in range(len(old.kernel_size))), {}]
    return {"low_rank": [whole, {}], "tucker": [{}, whole, {}]}[kind]


def _window_along(old: Convolution, dim: int, whole: Mapping[str, Any]) -> dict[str, Any]:
    """`whole` for a depthwise link along dimension `dim` of the kernel; `same` and `valid` are right as they are."""

    def only(values: Any, neutral: int) -> Any:
        if isinstance(values, str):
            return values
        return tuple(value if at == dim else neutral for at, value in enumerate(values))

    return {
        **whole, "depthwise": True, "stride": only(old.stride, 1), "padding": only(old.padding, 0),
        "dilation": only(old.dilation, 1),
    }  # fmt: skip


def _make_convolution(old: Convolution, weight: Tensor, window: Mapping[str, Any]) -> nn.Module:
    kind: Any = nn.Conv1d if isinstance(old, nn.Conv1d) else nn.Conv2d
    how = dict(window)
    groups = weight.shape[0] if how.pop("depthwise", False) else 1
    channels = (weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]))
    layer: nn.Module = kind(*channels, groups=groups, bias=False, device="meta", **how)
    return layer


def _make_linear(weight: Tensor) -> nn.Module:
    return nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")


def _compose_weights(whole: Tensor, link: nn.Module) -> Tensor:
    """The weight of a layer with the weight `whole` (r, s, kernel...) followed by `link` (t, r, kernel...), where along
    each dimension of the kernel one of both has length 1."""
    weight = _require_weight(link)
    if getattr(link, "groups", 1) > 1:
        return whole * weight
    apart = ((0, 1), (-2, -1))
    return torch.movedim(torch.movedim(weight, *apart) @ torch.movedim(whole, *apart), apart[1], apart[0])


def _find_plain_layer(layer: nn.Module) -> nn.Module:
    """The first plain layer: a link may be a chain in turn."""
    while isinstance(layer, FactorChain):
        layer = next(layer.children())
    return layer


def _require_weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"expected a layer with a weight, found {type(layer).__name__}")
    return weight

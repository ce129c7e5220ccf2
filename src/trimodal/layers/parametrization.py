"""A layer that takes its weight from a store.

The layer stays what it was (a Linear, a convolution, an embedding, or a model's own subclass with a forward of its
own) except that its parameter `weight` gives way to a read-only property that decodes the store. PyTorch's own
parametrizations work the same way; this one has no float original to keep. Where the store says that the input is
quantized too, the layer's forward is handed what is left of it.

Under the policy `speed` (`layers/kept_weight.py`) the store hands out what it decoded before; embeddings look rows up in that, and
linear layers and convolutions with quantized inputs compute as `layers/quantized_products.py` says.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from trimodal.layers.quantized_products import multiply_quantized
from trimodal.layers.stored import CodedWeight, Store

_MULTIPLYING = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)


def parametrize_weight_(layer: nn.Module, stored: Store, owner: bool = True) -> None:
    """Let `layer` read its weight from `stored`.

    Of several layers tied to one weight only the `owner` has the store as a submodule; the others just refer to it,
    so that it is counted, moved and saved once.
    """
    if "weight" in layer._parameters:
        del layer.weight
        layer.__class__ = _make_parametrized_class(type(layer), quantizes_inputs(stored))  # type: ignore[arg-type]
    if owner:
        layer.stored = stored
    else:
        object.__setattr__(layer, "stored", stored)


def is_weight_parametrized(layer: nn.Module) -> bool:
    """Whether the weight of `layer` comes from a store."""
    return isinstance(getattr(layer, "stored", None), Store)


def quantizes_inputs(stored: object) -> bool:
    """Whether `stored` is a store that says how the layer's input is quantized."""
    return isinstance(stored, CodedWeight) and stored.quantizes_inputs


def remove_parametrization_(layer: nn.Module) -> None:
    """Give `layer` its weight back as a plain parameter, with the values decoded. Its input is no longer quantized."""
    weight: Tensor = layer.stored().detach()  # type: ignore[operator]
    if "stored" in layer._modules:
        del layer.stored
    else:
        object.__delattr__(layer, "stored")
    layer.__class__ = type(layer).__mro__[1]
    layer.weight = nn.Parameter(weight)


@cache
def _make_parametrized_class(kind: type[nn.Module], inputs: bool) -> type[nn.Module]:
    multiplies = kind.forward in _MULTIPLYING
    members: dict[str, Any] = {
        "weight": property(_read_weight), "__module__": __name__, "__new__": _make_new,
        "__reduce__": lambda layer: (_rebuild_parametrized_layer, (kind, inputs), vars(layer)),
    }  # fmt: skip
    if kind.forward is nn.Embedding.forward:
        members["forward"] = _look_up_rows
    elif inputs:

        def forward(layer: nn.Module, *rest: Any, **named: Any) -> Any:
            store: Any = layer.stored
            if multiplies and len(rest) == 1 and (found := multiply_quantized(layer, store, rest[0])) is not None:
                return found
            seen = store.fake_quantize_input
            if rest:
                return kind.forward(layer, seen(rest[0]), *rest[1:], **named)
            first = next(iter(named))  # whatever the layer's own forward calls its input
            return kind.forward(layer, **{**named, first: seen(named[first])})

        members["forward"] = forward
    return type(f"Stored{kind.__name__}", (kind,), members)


def _make_new(kind: type[nn.Module], *sizes: Any, **options: Any) -> nn.Module:
    """A layer of the plain class where sizes are given: code that makes another layer like this one means one with a weight."""
    plain: Any = kind.__mro__[1]
    return plain(*sizes, **options) if sizes or options else object.__new__(kind)


def _rebuild_parametrized_layer(kind: type[nn.Module], inputs: bool) -> nn.Module:
    """An empty layer for a copy or a pickle to fill: its class has no name that could be imported."""
    made = _make_parametrized_class(kind, inputs)  # type: ignore[arg-type]
    return made.__new__(made)


def _read_weight(layer: nn.Module) -> Tensor:
    store: Any = layer._modules.get("stored") or layer.__dict__["stored"]
    weight: Tensor = store.decoded_weight
    return weight


def _look_up_rows(layer: nn.Embedding, input: Tensor) -> Tensor:
    """Decode only the rows asked for: a vocabulary is large and a sentence short. Where the whole is kept, look them up in that."""
    store: Any = layer.stored
    if store.dequantize_policy == "speed":
        return nn.Embedding.forward(layer, input)
    rows: Tensor = store.decode_rows(input.reshape(-1))
    return rows.view(*input.shape, -1)

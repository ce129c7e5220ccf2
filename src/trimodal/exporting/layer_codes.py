"""What an exporter writes for a layer: the codes of its weight, and how its input is quantized.

    y = (scale · (codes − zero)) · Q(x · columns) + b

`take_layer_codes_` takes them off a model and leaves plain layers with the decoded weights behind, so that what is traced
afterwards is an ordinary float model; the codes are written into the traced graph under the same paths.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from trimodal.layers import is_weight_parametrized, tie_weight_
from trimodal.layers.affine import Affine, NotAffine
from trimodal.layers.parametrization import remove_parametrization_
from trimodal.layers.stored import CodedWeight, SparseWeight, Store
from trimodal.layers.weight_sharing import has_shared_weight


@dataclass(frozen=True)
class InputCodes:
    """How a layer's input is quantized: round(x / `scale`) + `zero`, unsigned with `bits`; without a scale the range is that of each
    token (of each sample in a convolution) while the layer runs."""

    bits: int
    scale: float | None = None
    zero: int = 0

    @property
    def static(self) -> bool:
        """Whether the range is known beforehand."""
        return self.scale is not None


@dataclass(frozen=True)
class LayerCodes:
    """What is stored of one layer's weight.

    `shape` is the weight's. `weight` is its affine form, or the reason why it has none. `columns` float32 (in,), one for each
    channel of a convolution, multiplies the input before it is quantized: the codes are those of the weight divided by it.
    `store` is what was there, for forms that are not affine; `tied` are other layers with the very same weight.
    """

    path: str
    layer: nn.Module
    weight: Affine | NotAffine
    input: InputCodes | None
    columns: Tensor | None
    store: Store
    tied: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return tuple(self.store.shape)

    @property
    def parameter(self) -> nn.Parameter:
        """The decoded weight, in its own shape, which the plain layer has now."""
        weight = self.layer.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def affine(self) -> Affine | None:
        """The affine form of the weight that meets x · columns; None where anything else would have to be added to it."""
        if isinstance(self.weight, Affine):
            return self.weight
        return self.weight.inner if self.weight.beyond == ("columns",) else None


def take_layer_codes_(module: nn.Module) -> dict[str, LayerCodes]:
    """The codes of every stored weight by the layer's path; the layers are plain ones afterwards, tied ones with one parameter."""
    stored = {path: layer for path, layer in module.named_modules() if is_weight_parametrized(layer)}
    owners: dict[int, str] = {}
    tied: dict[str, list[str]] = {}
    for path, layer in stored.items():
        owner = owners.setdefault(id(layer.stored), path)
        if owner != path:
            tied.setdefault(owner, []).append(path)
    found = {path: _read_layer(path, stored[path], tuple(tied.get(path, ()))) for path in owners.values()}
    for layer in stored.values():
        remove_parametrization_(layer)
    for owner, others in tied.items():
        for path in others:
            stored[path].weight = stored[owner].weight
    for layer in module.modules():
        if has_shared_weight(layer):
            tie_weight_(layer)
    return found


def _read_layer(path: str, layer: nn.Module, tied: tuple[str, ...]) -> LayerCodes:
    store = layer.stored
    if not isinstance(store, CodedWeight | SparseWeight):
        raise TypeError(f"{path} is stored as {type(store).__name__}")
    columns = store._buffers.get("columns")
    return LayerCodes(path, layer, store.affine(), _read_input(store), _read_columns(columns, store), store, tied)


def _read_columns(columns: Tensor | None, store: Store) -> Tensor | None:
    """One factor per input channel: those of a convolution's kernel are all alike."""
    return None if columns is None else columns.float().view(store.shape[1], -1)[:, 0].contiguous()


def _read_input(store: Store) -> InputCodes | None:
    how = store.options.get("inputs")
    if how is None:
        return None
    scale, zero = store._buffers.get("input_scale"), store._buffers.get("input_zero")
    if scale is None or zero is None:
        return InputCodes(how["bits"])
    return InputCodes(how["bits"], float(scale), int(zero))

"""The affine form of any layer's weight, by the layer's path."""

from __future__ import annotations

from torch import Tensor, nn

from trimodal.layers.affine import Affine, NotAffine
from trimodal.layers.chain import FactorChain
from trimodal.layers.stored import CodedWeight, SparseWeight
from trimodal.layers.weight_sharing import has_shared_weight


def find_affine(module: nn.Module, path: str) -> Affine | NotAffine:
    """The affine form of the weight of the layer at `path` in `module`, or the reason why it has none.

    Raises:
        AttributeError: there is no layer at `path`.
    """
    layer = module.get_submodule(path)
    if has_shared_weight(layer):
        layer = layer.lender  # type: ignore[assignment]
    store = getattr(layer, "stored", None)
    if isinstance(store, CodedWeight | SparseWeight):
        return store.affine()
    if isinstance(layer, FactorChain):
        names = ", ".join(f"{path}.{name}" for name, _ in layer.named_children())
        return NotAffine(f"its weight is a product of layers; ask for {names}")
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return NotAffine("it has no weight")
    return NotAffine(f"its weight is stored as plain {str(weight.dtype).removeprefix('torch.')} numbers, without codes")

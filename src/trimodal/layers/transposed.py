"""Transformers' `Conv1D`, the layer of GPT-2 and its kin, as the linear layer that it is.

Its weight stands as (in, out), the other way round than that of `nn.Linear`. Rows of a weight are outputs everywhere else: scales,
statistics, cuts, factors and exported codes go by that. So the weight is turned when the layer is opened and back when it is closed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trimodal.layers.opened import OpenedLayer


class TransposedLinear(nn.Linear, OpenedLayer):
    """A linear layer, weight (out, in), that was a `Conv1D` with the weight (in, out)."""

    __constants__ = [*nn.Linear.__constants__, "was_transposed"]  # noqa: RUF012  # a chain of factors hands it on
    was_transposed = True

    def close_tensors(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weight as (in, out), and the bias."""
        return {name: t.T.contiguous() if name == "weight" else t for name, t in own.items()}

    def make_original(self) -> nn.Module:
        """A `Conv1D` of these sizes, without values."""
        kind = _find_conv1d()
        assert kind is not None  # it was one
        made: nn.Module = kind(self.out_features, self.in_features).to("meta")
        return made


def can_open_transposed(part: nn.Module) -> bool:
    """Whether `part` is a `Conv1D`."""
    kind = _find_conv1d()
    return kind is not None and type(part) is kind and isinstance(part._parameters.get("weight"), nn.Parameter)


def open_transposed(part: nn.Module) -> nn.Module:
    """The linear layer that the `Conv1D` is."""
    weight: Any = part.weight
    layer = TransposedLinear(weight.shape[0], weight.shape[1], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach().T.contiguous(), requires_grad=weight.requires_grad)
    layer.bias = part.bias  # type: ignore[assignment]
    return layer.train(part.training)


def _find_conv1d() -> Any:
    """The class, if Transformers has been imported: else nothing can be one."""
    return getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)

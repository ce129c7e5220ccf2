"""Transposed convolutions with rows as outputs.

PyTorch keeps their weight as (in, out, kernel…), the other way round than that of other convolutions. Opened it is (out, in, kernel…), and
turned when the layer runs. Those in groups stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvTransposeNd

from trimodal.layers.opened import OpenedLayer, copy_state

_KINDS: dict[type[nn.Module], Any] = {
    nn.ConvTranspose1d: functional.conv_transpose1d,
    nn.ConvTranspose2d: functional.conv_transpose2d,
    nn.ConvTranspose3d: functional.conv_transpose3d,
}


class TransposedConvolution(OpenedLayer, _ConvTransposeNd):
    """What an `nn.ConvTranspose1d`, `2d` or `3d` computes, weight (out, in, kernel…)."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(batch, in, places…) -> (batch, out, places…)."""
        dims = len(self.kernel_size)
        arguments: Any = (self.stride, self.padding, self.kernel_size, dims, self.dilation)
        more = self._output_padding(input, output_size, *arguments)
        run = list(_KINDS.values())[dims - 1]
        found: Tensor = run(input, self.weight.transpose(0, 1), self.bias, self.stride, self.padding, more, 1, self.dilation)
        return found

    def close_tensors(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weight as (in, out, kernel…), and the bias."""
        return {name: t.transpose(0, 1).contiguous() if name == "weight" else t for name, t in own.items()}

    def make_original(self) -> nn.Module:
        """A transposed convolution of these sizes, without values."""
        kind: Any = list(_KINDS)[len(self.kernel_size) - 1]
        made: nn.Module = kind(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.output_padding,
            1, self.bias is not None, self.dilation, device="meta",
        )  # fmt: skip
        return made


def can_open_transposed_convolution(part: nn.Module) -> bool:
    """Whether `part` is a transposed convolution without groups."""
    if not isinstance(part, _ConvTransposeNd) or type(part) not in _KINDS:
        return False
    return part.groups == 1 and isinstance(part._parameters.get("weight"), nn.Parameter)


def open_transposed_convolution(part: nn.Module) -> nn.Module:
    """The same layer with its weight turned."""
    opened: Any = object.__new__(TransposedConvolution)
    opened.__dict__ = copy_state(part)
    weight: Any = part.weight
    opened._parameters["weight"] = nn.Parameter(weight.detach().transpose(0, 1).contiguous(), requires_grad=weight.requires_grad)
    return opened  # type: ignore[no-any-return]

"""Two layers in a row in place of one."""

from __future__ import annotations

from torch import Tensor, nn


class LowRank(nn.Module):
    """`first` down to the rank and `second` up again.

    Both are plain layers that later steps may quantize. For a convolution `first` has the kernel and `second` is
    1 × 1; for an embedding `first` is the embedding.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    @property
    def weight(self) -> Tensor:
        """The product of both factors, in the shape of the weight it stands for."""
        first, second = _weight(self.first), _weight(self.second)
        if isinstance(self.first, nn.Embedding):
            return first @ second.T
        return (second.flatten(1) @ first.flatten(1)).view(second.shape[0], *first.shape[1:])

    @property
    def bias(self) -> Tensor | None:
        """The bias, which the second layer holds."""
        bias = self.second.bias
        return bias if isinstance(bias, Tensor) else None

    def forward(self, x: Tensor) -> Tensor:
        """What the replaced layer took -> what it gave."""
        y: Tensor = self.second(self.first(x))
        return y


def low_rank(old: nn.Module, first: Tensor, second: Tensor, bias: nn.Parameter | None) -> LowRank:
    """Two layers of `old`'s kind around the factors `first` (rank, in, kernel...) [embedding: (rows, rank)] and
    `second` (out, rank, 1...)."""
    if isinstance(old, nn.Embedding):
        down: nn.Module = nn.Embedding(first.shape[0], first.shape[1], padding_idx=old.padding_idx, device="meta")
        up: nn.Module = nn.Linear(second.shape[1], second.shape[0], bias=False, device="meta")
    elif isinstance(old, nn.Linear):
        down = nn.Linear(first.shape[1], first.shape[0], bias=False, device="meta")
        up = nn.Linear(second.shape[1], second.shape[0], bias=False, device="meta")
    elif isinstance(old, nn.Conv1d | nn.Conv2d):
        kind, rank = nn.Conv1d if isinstance(old, nn.Conv1d) else nn.Conv2d, first.shape[0]
        shape = (old.kernel_size, old.stride, old.padding, old.dilation, 1, False, old.padding_mode)
        down = kind(old.in_channels, rank, *shape, device="meta")  # type: ignore[arg-type]
        up = kind(rank, old.out_channels, 1, bias=False, device="meta")  # type: ignore[arg-type]
    else:
        raise TypeError(f"no low-rank form of {type(old).__name__}")
    down.weight = nn.Parameter(first, requires_grad=first.is_floating_point())
    up.weight = nn.Parameter(second, requires_grad=second.is_floating_point())
    up.bias = bias  # type: ignore[assignment]
    pair = LowRank(down, up)
    for name in getattr(old, "__constants__", ()):  # sizes, stride and the like, which some models ask for
        setattr(pair, name, getattr(old, name))
    return pair


def merged(pair: LowRank) -> nn.Module:
    """One plain layer with the product of both factors."""
    first, second, weight = pair.first, pair.second, pair.weight.detach()
    if isinstance(first, nn.Embedding):
        layer: nn.Module = nn.Embedding(weight.shape[0], weight.shape[1], padding_idx=first.padding_idx, device="meta")
    elif isinstance(first, nn.Conv1d | nn.Conv2d):
        shape = (first.kernel_size, first.stride, first.padding, first.dilation, 1, False, first.padding_mode)
        channels = (first.in_channels, weight.shape[0])
        layer = type(first)(*channels, *shape, device="meta")  # type: ignore[arg-type]
    else:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight)
    if not isinstance(first, nn.Embedding):
        layer.bias = second.bias
    return layer


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"expected a layer with a weight, found {type(layer).__name__}")
    return weight

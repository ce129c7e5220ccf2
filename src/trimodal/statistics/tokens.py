"""From a layer's raw input to rows of tokens, without padding, sorted by modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvTransposeNd

from trimodal.core import TOKEN_KINDS


def unfold_input(module: nn.Module, x: Tensor) -> Tensor:
    """The input of `module` as (..., in_features), one row per output position.

    A convolution's input becomes its patches, flattened like the weight's trailing dimensions: channels, then
    kernel. Only ungrouped convolutions: a grouped one has no single second moment.
    """
    if isinstance(module, _ConvTransposeNd):
        return _unfold_transposed(module, x)
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return x
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    # The convolution's own padding, last dimension first: `same` pads an even kernel more on the right.
    x = functional.pad(x, module._reversed_padding_repeated_twice, mode)
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    if isinstance(module, nn.Conv3d):
        return _cut_patches(x, kernel, dilation, stride).flatten(2)
    if isinstance(module, nn.Conv1d):
        x = x.unsqueeze(2)
        kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
    return functional.unfold(x, kernel, dilation=dilation, stride=stride).transpose(1, 2)


def _unfold_transposed(module: _ConvTransposeNd, x: Tensor) -> Tensor:
    """As `unfold_input` of a transposed convolution whose weight is (out, in, kernel…): that is an ordinary one with the kernel turned
    round, over an input with zeros between its places."""
    kernel, dilation = module.kernel_size, module.dilation
    strides, more = module.stride, module.output_padding
    padding = [int(p) for p in module.padding]
    shape = [(size - 1) * stride + 1 for size, stride in zip(x.shape[2:], strides, strict=True)]
    spread = x.new_zeros(*x.shape[:2], *shape)
    every: Any = (..., *(slice(None, None, stride) for stride in strides))
    spread[every] = x
    edges: list[int] = []
    for k, d, p, o in zip(kernel, dilation, padding, more, strict=True):
        edges = [d * (k - 1) - p, d * (k - 1) - p + o, *edges]
    patches = _cut_patches(functional.pad(spread, edges), kernel, dilation, [1] * len(kernel))
    return patches.flip(list(range(3, patches.dim()))).flatten(2)


def _cut_patches(x: Tensor, kernel: Sequence[int], dilation: Sequence[int], stride: Sequence[int]) -> Tensor:
    """x (batch, channels, places…) -> (batch, patches, channels, kernel…), for any number of dimensions."""
    dims = len(kernel)
    for dim, (k, d, s) in enumerate(zip(kernel, dilation, stride, strict=True)):
        x = x.unfold(2 + dim, d * (k - 1) + 1, s)[..., ::d]
    places = list(range(2, 2 + dims))
    return x.permute(0, *places, 1, *range(2 + dims, 2 + 2 * dims)).flatten(1, dims)


def find_token_codes(codes: Mapping[str, Tensor], stream: str, x: Tensor) -> Tensor | None:
    """Of `codes` by stream those (batch, tokens) of the tokens of x (batch, tokens, …). A decoder whose blocks read only some tokens of
    a text is embedded, and gives scores, for the `whole` of it."""
    whole = codes.get(f"{stream}.whole")
    return whole if whole is not None and x.shape[:2] == whole.shape else codes.get(stream)


def split_rows_by_modality(x: Tensor, codes: Tensor | None, modality: str) -> dict[str, Tensor]:
    """Split x (batch, tokens, n), or (batch · tokens, n), into rows (count, n) per modality, padding left out.

    `codes` (batch, tokens) says per token which of TOKEN_KINDS it is, -1 for padding. An input that has a whole number
    of rows per token (a convolution that later ones will shorten) repeats them. Where there are no codes, or the input
    has another length (pooled tokens), every row counts for `modality`.
    """
    if codes is not None and x.dim() == 3 and len(x) == len(codes) and x.shape[1] % codes.shape[1] == 0:
        codes = codes.repeat_interleave(x.shape[1] // codes.shape[1], dim=1)
    if codes is not None and x.dim() == 2 and codes.dim() == 2 and len(x) == codes.numel():
        codes = codes.reshape(-1)
    if codes is None or x.dim() != codes.dim() + 1 or x.shape[:-1] != codes.shape:
        return {modality: x.reshape(-1, x.shape[-1])}
    kinds = codes.unique().tolist()
    if len(kinds) == 1 and kinds[0] >= 0:
        return {TOKEN_KINDS[kinds[0]]: x.reshape(-1, x.shape[-1])}  # nothing to pick out: no copy
    return {TOKEN_KINDS[kind]: x[codes == kind] for kind in kinds if kind >= 0}

"""From a layer's raw input to rows of tokens, without padding, sorted by modality."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from trimodal.core import TOKEN_KINDS


def unfold_input(module: nn.Module, x: Tensor) -> Tensor:
    """The input of `module` as (..., in_features), one row per output position.

    A convolution's input becomes its patches, flattened like the weight's trailing dimensions: channels, then
    kernel. Only ungrouped convolutions: a grouped one has no single second moment.
    """
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        return x
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    # The convolution's own padding, last dimension first: `same` pads an even kernel more on the right.
    x = functional.pad(x, module._reversed_padding_repeated_twice, mode)
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    if isinstance(module, nn.Conv1d):
        x = x.unsqueeze(2)
        kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
    return functional.unfold(x, kernel, dilation=dilation, stride=stride).transpose(1, 2)


def split_rows_by_modality(x: Tensor, codes: Tensor | None, modality: str) -> dict[str, Tensor]:
    """Split x (batch, tokens, n) into rows (count, n) per modality, padding left out.

    `codes` (batch, tokens) says per token which of TOKEN_KINDS it is, -1 for padding. An input that has a whole number
    of rows per token (a convolution that later ones will shorten) repeats them. Where there are no codes, or the input
    has another length (pooled tokens), every row counts for `modality`.
    """
    if codes is not None and x.dim() == 3 and len(x) == len(codes) and x.shape[1] % codes.shape[1] == 0:
        codes = codes.repeat_interleave(x.shape[1] // codes.shape[1], dim=1)
    if codes is None or x.dim() != codes.dim() + 1 or x.shape[:-1] != codes.shape:
        return {modality: x.reshape(-1, x.shape[-1])}
    kinds = codes.unique().tolist()
    if len(kinds) == 1 and kinds[0] >= 0:
        return {TOKEN_KINDS[kinds[0]]: x.reshape(-1, x.shape[-1])}  # nothing to pick out: no copy
    return {TOKEN_KINDS[kind]: x[codes == kind] for kind in kinds if kind >= 0}

"""From a layer's raw input to rows of tokens, without padding, sorted by modality."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from trimodal.core import MODALITIES


def unfold_input(module: nn.Module, x: Tensor) -> Tensor:
    """The input of `module` as (..., in_features), one row per output position.

    A convolution's input becomes its patches, flattened like the weight's trailing dimensions: channels, then
    kernel. Only ungrouped convolutions: a grouped one has no single second moment.
    """
    if isinstance(module, nn.Conv1d):
        x, kernel = x.unsqueeze(2), (1, *module.kernel_size)
        padding, stride, dilation = (0, *_padding(module)), (1, *module.stride), (1, *module.dilation)
    elif isinstance(module, nn.Conv2d):
        kernel, padding = module.kernel_size, _padding(module)
        stride, dilation = module.stride, module.dilation
    else:
        return x
    patches = functional.unfold(x, kernel, dilation=dilation, padding=padding, stride=stride)
    return patches.transpose(1, 2)


def _padding(module: nn.Conv1d | nn.Conv2d) -> tuple[int, ...]:
    if isinstance(module.padding, str):
        spans = zip(module.dilation, module.kernel_size, strict=True)
        return tuple(d * (k - 1) // 2 if module.padding == "same" else 0 for d, k in spans)
    return module.padding


def rows_by_modality(x: Tensor, codes: Tensor | None, modality: str) -> dict[str, Tensor]:
    """Split x (batch, tokens, n) into rows (count, n) per modality, padding left out.

    `codes` (batch, tokens) says per token which of MODALITIES it is, then `fusion` for the fusion stream's own tokens,
    -1 for padding. Where there are no codes,
    or the input has another length than they have (pooled tokens), every row counts for `modality`.
    """
    if codes is None or x.shape[: codes.dim()] != codes.shape:
        return {modality: x.reshape(-1, x.shape[-1])}
    return {
        name: x[codes == code] for code, name in enumerate((*MODALITIES, "fusion")) if bool((codes == code).any())
    }

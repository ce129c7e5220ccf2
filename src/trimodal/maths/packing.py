"""Unsigned codes of 1 to 8 or 16 bits, packed into bytes without gaps.

Eight codes of b bits take exactly b bytes: they are laid end to end, lowest bits first, in one 64-bit word whose low
b bytes are kept. A row whose length is no multiple of eight is padded with zeros. Two 4-bit codes 3, 5 share the
byte 3 + 16·5 = 83.

Other programs keep the same stream of bits in 32-bit words, of signed codes to which 2^(b−1) is added: `pack_into_words`. A row
then ends with the word that holds its last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trimodal.core.storage import packed_columns

__all__ = ["decode_codes", "pack_codes", "pack_into_words", "packed_columns", "unpack_codes", "unpack_from_words"]


def decode_codes(options: Mapping[str, Any], tensors: Mapping[str, Tensor], columns: int) -> Tensor:
    """The codes (rows, columns) of a coded weight; with a mask, 0 stands where a weight has none."""
    if "kept" not in options:
        return unpack_codes(tensors["codes"], options["bits"], columns)
    mask = unpack_codes(tensors["mask"], 1, columns).bool()
    codes = unpack_codes(tensors["codes"], options["bits"], options["kept"])
    return torch.zeros(mask.shape, dtype=codes.dtype, device=codes.device).masked_scatter(mask, codes)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes (rows, columns), integers in [0, 2^bits), into uint8 (rows, packed_columns)."""
    rows, columns = codes.shape
    if bits == 16:
        pairs = torch.stack((codes & 255, codes >> 8), dim=-1).to(torch.uint8).view(rows, -1)
        return torch.nn.functional.pad(pairs, (0, packed_columns(columns, 16) - 2 * columns))
    if bits == 8 and columns % 8 == 0:
        return codes.to(torch.uint8)
    padded = torch.zeros(rows, -(-columns // 8) * 8, dtype=torch.int64, device=codes.device)
    padded[:, :columns] = codes
    shifts = torch.arange(8, device=codes.device) * bits
    words = (padded.view(rows, -1, 8) << shifts).sum(-1, keepdim=True)  # (rows, words, 1)
    byte_shifts = torch.arange(bits, device=codes.device) * 8
    return ((words >> byte_shifts) & 255).to(torch.uint8).reshape(rows, -1)


def unpack_codes(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of `pack_codes`: uint8 (rows, columns); int32 at 16 bits."""
    rows = packed.shape[0]
    if bits == 16:
        low, high = packed[:, : 2 * columns].view(rows, -1, 2).int().unbind(-1)
        return low | (high << 8)
    if bits == 8:
        return packed[:, :columns]
    if bits == 4:
        return torch.stack((packed & 15, packed >> 4), dim=-1).view(rows, -1)[:, :columns]
    byte_shifts = torch.arange(bits, device=packed.device) * 8
    words: Tensor = (packed.view(rows, -1, bits).to(torch.int64) << byte_shifts).sum(-1, keepdim=True)
    shifts = torch.arange(8, device=packed.device) * bits
    codes: Tensor = ((words >> shifts) & (2**bits - 1)).to(torch.uint8)
    return codes.view(rows, -1)[:, :columns]


def pack_into_words(values: Tensor, bits: int) -> Tensor:
    """Pack signed `values` (rows, columns), integers in [−2^(bits−1), 2^(bits−1)) of at most 8 bits, into int32 (rows, ⌈columns·bits/32⌉).

    This is what the format `pack-quantized` of compressed-tensors 0.20 describes. By hand: 3 bits, values 0, 1, −4 are 4, 5, 0
    with 4 added, so the word is 4 + 5·2^3 + 0·2^6 = 44.
    """
    packed = pack_codes(values.int() + 2 ** (bits - 1), bits)
    return _fit_bytes(packed, -(-values.shape[1] * bits // 32) * 4).view(torch.int32)


def unpack_from_words(words: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of `pack_into_words`: int8 (rows, columns)."""
    packed = _fit_bytes(words.contiguous().view(torch.uint8), packed_columns(columns, bits))
    values: Tensor = unpack_codes(packed, bits, columns).int() - 2 ** (bits - 1)
    return values.to(torch.int8)


def _fit_bytes(packed: Tensor, size: int) -> Tensor:
    """Rows of `size` bytes: what lies behind is cut off, what lacks is 0."""
    found = torch.zeros(len(packed), size, dtype=torch.uint8, device=packed.device)
    shared = min(size, packed.shape[1])
    found[:, :shared] = packed[:, :shared]
    return found

"""Codes of 1 to 8 bits in bytes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimodal.maths.packing import (
    decode_codes,
    pack_codes,
    pack_into_words,
    packed_columns,
    unpack_codes,
    unpack_from_words,
)


def test_two_codes_of_four_bits_share_a_byte() -> None:
    assert pack_codes(torch.tensor([[3, 5]]), 4)[0].tolist() == [83, 0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 8), rows=st.integers(1, 5), columns=st.integers(1, 41), seed=st.integers(0, 99))
def test_unpacking_gives_back_what_was_packed(bits: int, rows: int, columns: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (rows, columns), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (rows, packed_columns(columns, bits))
    assert torch.equal(unpack_codes(packed, bits, columns), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_code_survives(bits: int) -> None:
    codes = torch.arange(2**bits).to(torch.uint8).view(1, -1)
    assert torch.equal(unpack_codes(pack_codes(codes, bits), bits, codes.shape[1]), codes)
    assert torch.equal(unpack_codes(pack_codes(codes.flip(1), bits), bits, codes.shape[1]), codes.flip(1))


@pytest.mark.parametrize("bits", range(1, 9))
def test_eight_codes_take_as_many_bytes_as_bits(bits: int) -> None:
    assert pack_codes(torch.zeros(3, 8, dtype=torch.uint8), bits).shape == (3, bits)
    assert packed_columns(9, bits) == 2 * bits


def test_codes_of_what_a_mask_keeps_by_hand() -> None:
    mask = torch.tensor([[False, True, False], [True, True, False]])
    tensors = {"codes": pack_codes(torch.tensor([[5, 6, 7]]), 3), "mask": pack_codes(mask.to(torch.uint8), 1)}
    found = decode_codes({"bits": 3, "kept": 3}, tensors, 3)
    assert found.tolist() == [[0, 5, 0], [6, 7, 0]] and found.dtype == torch.uint8
    whole = {"codes": pack_codes(torch.tensor([[5, 6, 7]]), 3)}
    assert decode_codes({"bits": 3}, whole, 3).tolist() == [[5, 6, 7]]


def test_words_by_hand() -> None:
    assert pack_into_words(torch.tensor([[0, 1, -4]]), 3).tolist() == [[44]]


def test_a_value_that_lies_across_two_words() -> None:
    values = torch.full((1, 11), -4)
    values[0, 10] = 3  # 7 with 4 added: bits 30 and 31 of the first word, bit 0 of the second
    assert pack_into_words(values, 3).tolist() == [[-(1 << 30), 1]]


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 8), rows=st.integers(1, 4), columns=st.integers(1, 75), seed=st.integers(0, 99))
def test_words_are_one_stream_of_bits(bits: int, rows: int, columns: int, seed: int) -> None:
    low = -(2 ** (bits - 1))
    values = torch.randint(low, low + 2**bits, (rows, columns), generator=torch.Generator().manual_seed(seed))
    words = pack_into_words(values, bits)
    assert words.dtype is torch.int32 and words.shape == (rows, -(-columns * bits // 32))
    for row, packed in zip(values.tolist(), words.tolist(), strict=True):
        whole = sum((word & 0xFFFFFFFF) << (32 * n) for n, word in enumerate(packed))
        assert [(whole >> (bits * n) & (2**bits - 1)) + low for n in range(columns)] == row
        assert whole >> (bits * columns) == 0
    found = unpack_from_words(words, bits, columns)
    assert found.dtype is torch.int8 and found.tolist() == values.tolist()

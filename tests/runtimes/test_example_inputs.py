"""Inputs by shape, and cosines of outputs."""

from __future__ import annotations

import numpy as np
import pytest

from trimodal.benching.fidelity import compare_outputs, measure_cosine
from trimodal.runtimes.example_inputs import make_inputs, measure_length, varies_with_tokens

TEXT = {"input_ids": ["batch_size", "sequence_length"], "attention_mask": ["batch_size", "sequence_length"],
        "token_type_ids": ["batch_size", "sequence_length"], "position_ids": ["batch_size", "sequence_length"]}  # fmt: skip


def test_texts() -> None:
    found = make_inputs(TEXT, batch=3, tokens=5, words=50)
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(TEXT, (3, 5))
    assert found["input_ids"].dtype == np.int64 and found["input_ids"].min() >= 5 and found["input_ids"].max() < 50
    assert (found["attention_mask"] == 1).all() and (found["token_type_ids"] == 0).all()
    assert found["position_ids"].tolist() == [[0, 1, 2, 3, 4]] * 3
    assert np.array_equal(found["input_ids"], make_inputs(TEXT, 3, 5, 50)["input_ids"])


def test_images_keep_their_fixed_lengths() -> None:
    shapes = {"pixel_values": ["batch_size", 3, 8, 8]}
    found = make_inputs(shapes, batch=2, tokens=32)["pixel_values"]
    assert found.shape == (2, 3, 8, 8) and found.dtype == np.float32
    assert not varies_with_tokens(shapes) and varies_with_tokens(TEXT)


def test_a_text_after_a_past_is_one_token() -> None:
    shapes = {
        "input_ids": ["batch_size", "sequence_length"], "attention_mask": ["batch_size", "past_sequence_length + sequence_length"],
        "past_key_values.0.key": ["batch_size", 4, "past_sequence_length", 16],
    }  # fmt: skip
    found = make_inputs(shapes, batch=2, tokens=9)
    assert [value.shape for value in found.values()] == [(2, 1), (2, 10), (2, 4, 9, 16)]
    assert measure_length("past_sequence_length + 1", 2, 9, with_past=True) == 10


def test_cosines() -> None:
    one = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    assert measure_cosine(one, one) == 1.0
    assert measure_cosine(np.array([[1.0, 1.0], [0.0, 1.0]]), one) == pytest.approx((2**-0.5 + 1) / 2)
    assert measure_cosine(np.zeros((1, 2)), np.zeros((1, 2))) == 1.0
    assert measure_cosine(np.array([[np.nan, 0.0]]), np.ones((1, 2))) == 0.0
    found = compare_outputs({"a": one, "b": one[:, :1], "ids": one}, {"a": one, "b": one, "ids": one.astype(np.int64), "c": one})
    assert found == {"a": 1.0, "b": None}

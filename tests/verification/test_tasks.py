"""Scores per sample on tensors small enough to read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trimodal.models.model import Output
from trimodal.models.pooling import pool_embedding, resize_mask
from trimodal.verification import tasks

NAN = float("nan")


def test_accuracy_counts_the_highest_score() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 1.0, 2.0], [NAN, 1.0, 0.0]])
    assert tasks.accuracy(logits, torch.tensor([1, 2, 1])).tolist() == [100, 0, 0]


def test_agreement_compares_the_two_models() -> None:
    a = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[5.0, 9.0], [0.0, 1.0], [2.0, 1.0], [NAN, NAN]])
    assert tasks.top1_agreement(a, b).tolist() == [100, 0, 100, 0]


def test_token_agreement_leaves_out_padding() -> None:
    a = torch.eye(4)[None].repeat(3, 1, 1)  # the right token at each of four places
    b = a.clone()
    b[0, 0] = b[0, 3] = torch.tensor([0.0, 0.0, 9.0, 0.0])  # wrong at the first and the last
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    first, second = tasks.top1_tokens(a), tasks.top1_tokens(b)
    assert tasks.token_agreement(first, second, mask).tolist() == pytest.approx([200 / 3, 100, 100])
    assert tasks.token_agreement(first, second, None).tolist() == [50, 100, 100]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_not_finite_ranks_no_token_first(dtype: torch.dtype) -> None:
    scores = torch.tensor([[[0.0, 2.0], [NAN, 1.0], [float("inf"), 0.0], [-float("inf"), 0.0], [3.0, 1.0]]], dtype=dtype)
    assert tasks.top1_tokens(scores).tolist() == [[1, -1, -1, -1, 0]]
    assert tasks.token_agreement(torch.tensor([[-1, 1]]), torch.tensor([[-1, 1]]), None).tolist() == [50]


def test_cosine_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[0.0, 2.0], [3.0, 0.0], [0.0, 0.0], [1.0, 0.0], [float("inf"), 0.0]])
    assert tasks.cosine_similarity(a, b).tolist() == pytest.approx([0, 2**-0.5, 1, 0, 0])
    assert tasks.cosine_similarity(a[:2], a[:2]).tolist() == pytest.approx([1, 1])


def test_pooling() -> None:
    value = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])

    def pool(how: str) -> Output:
        return Output("x", "text", "embedding", pool=how)  # type: ignore[arg-type]

    assert pool_embedding(pool("mean"), value, mask).tolist() == [[2, 3]]
    assert pool_embedding(pool("first"), value, mask).tolist() == [[1, 2]]
    assert pool_embedding(pool(""), value, mask).shape == (1, 6)
    assert pool_embedding(pool("mean"), value, None).tolist() == [pytest.approx([104 / 3, 106 / 3])]


def test_a_mask_over_samples_fits_frames() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0]])
    assert resize_mask(mask, 4).tolist() == [[1, 1, 0, 0]]
    assert resize_mask(mask, 8) is mask


def test_retrieval_on_a_hand_made_matrix() -> None:
    queries = np.array([[1.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    gallery = np.array([[2.0, 0.1], [0.1, 2.0]])
    wanted = [frozenset({0}), frozenset({0}), frozenset({0, 1})]
    assert tasks.recall_at_1(queries, gallery, wanted).tolist() == [100, 0, 100]


def test_single_numbers_are_held_against_the_spread_of_the_originals() -> None:
    assert tasks.number_similarity(np.array([1.0, -1.0]), np.array([1.0, 1.0])) == pytest.approx([1, 0])
    assert tasks.number_similarity(np.array([101.0, 99.0, NAN]), np.array([101.0, 101.0, 100.0])) == pytest.approx([1, 0, 0])
    assert tasks.number_similarity(np.array([3.0, 3.0]), np.array([3.0, 6.0])) == pytest.approx([1, 0.5**0.5])  # all alike: s = 3
    assert tasks.number_similarity(np.zeros(2), np.array([0.0, 1.0])).tolist() == [1, 0]
    assert tasks.number_similarity(np.array([NAN]), np.array([NAN])).tolist() == [0]

"""The word error rate, by hand."""

from __future__ import annotations

import pytest

from trimodal.verification.words import compute_word_error_rate, count_word_errors


@pytest.mark.parametrize(
    ("said", "wanted", "errors", "words"),
    [
        ("the red bus", "a red bus stops", 2, 4),
        ("", "a b", 2, 2),
        ("a b c", "", 3, 0),
        ("A red, bus!", "a red bus", 0, 3),
        ("b a", "a b", 2, 2),
    ],
)
def test_errors(said: str, wanted: str, errors: int, words: int) -> None:
    assert count_word_errors(said, wanted) == (errors, words)


def test_rate_counts_words_not_sentences() -> None:
    assert compute_word_error_rate(["a", "x y z"], ["b", "x y z"]) == 25.0
    assert compute_word_error_rate(["a b"], ["c"]) == 200.0

"""The word error rate: how far what was said is from what should have been."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SIGNS = re.compile(r"[^\w\s']")


def count_word_errors(said: str, wanted: str) -> tuple[int, int]:
    """The fewest words to put in, leave out or replace, and how many words were wanted; case and punctuation do not count.

    "the red bus" for "a red bus stops": one replaced, one left out: (2, 4).
    """
    found, right = split_words(said), split_words(wanted)
    row = list(range(len(right) + 1))  # edits from no word of `found` to the first words of `right` (Levenshtein 1966)
    for number, word in enumerate(found, start=1):
        before, row[0] = row[0], number
        for at, other in enumerate(right, start=1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (word != other))
    return row[-1], len(right)


def compute_word_error_rate(said: Sequence[str], wanted: Sequence[str]) -> float:
    """Percent of the words of `wanted` that are wrong in `said`, over all pairs; may exceed 100."""
    pairs = [count_word_errors(*pair) for pair in zip(said, wanted, strict=True)]
    return 100.0 * sum(errors for errors, _ in pairs) / max(1, sum(words for _, words in pairs))


def split_words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return _SIGNS.sub(" ", text.casefold()).split()

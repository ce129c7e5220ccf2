"""A text ends before the strings that were named, whole or in pieces, and nothing of them goes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimodal.serving.requests import Options, Text, Wording
from trimodal.serving.speaking import Speaking


class Parrot:
    """A model and its runner, which says a text letter by letter."""

    def __init__(self, text: str) -> None:
        self.text, self.said, self.runner = text, 0, self

    def generate(self, arrays: Any, most: int, language: str | None, wording: Wording) -> Iterator[int]:
        for letter in self.text[:most]:
            self.said += 1
            yield ord(letter)

    def spell(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))


def say(text: str, stop: tuple[str, ...], most: int = 1000) -> tuple[list[str], Text, int]:
    """The pieces, the whole, and how many letters were computed."""

    async def run() -> tuple[list[str], Text, int]:
        with ThreadPoolExecutor(1) as pool:
            def make(parrot: Parrot) -> Speaking:
                options = Options(wording=Wording(stop=stop))
                return Speaking(parrot, {}, most, options, time.monotonic() + 60, pool, lambda _: None)  # type: ignore[arg-type]

            one, other = Parrot(text), Parrot(text)
            pieces = [piece async for piece in make(one).pieces()]
            whole = await make(other).say_all()
            assert pieces[-1] == whole and one.said == other.said
            return [piece for piece in pieces[:-1] if isinstance(piece, str)], whole, one.said

    return asyncio.run(run())


def test_nothing_of_a_stop_goes_out() -> None:
    pieces, whole, computed = say("one. END two", (" END",))
    assert whole.text == "one." and whole.finish == "stop" and computed == len("one. END")
    assert "".join(pieces) == "one."


def test_the_first_of_several_counts_and_what_only_begins_like_one_is_said() -> None:
    assert say("a EN b END c", ("END", "c", "\n"))[1].text == "a EN b "
    pieces, whole, _ = say("abcabd", ("abd", "xyz"))
    assert (whole.text == "abc" and pieces == ["a", "b", "c"]) or "".join(pieces) == "abc"


def test_a_text_that_ends_in_half_a_stop_is_whole() -> None:
    pieces, whole, _ = say("the EN", ("END",))
    assert whole.text == "the EN" == "".join(pieces) and whole.finish == "stop"
    assert say("the EN", ("END",), most=3)[1].finish == "length"


@pytest.mark.parametrize("stop", [(), ("xyz",)])
def test_without_one_all_is_said(stop: tuple[str, ...]) -> None:
    assert "".join(say("some words", stop)[0]) == "some words"


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_pieces_make_the_text_before_the_first_stop(text: str, stop: list[str]) -> None:
    pieces, whole, _ = say(text, tuple(stop))
    ends = [text.find(one) for one in stop if one in text]
    first = min(ends, default=len(text))
    assert "".join(pieces) == whole.text and not any(one in whole.text for one in stop)
    assert (whole.text == text[: len(whole.text)] and len(whole.text) >= first) or whole.text == text[:first]

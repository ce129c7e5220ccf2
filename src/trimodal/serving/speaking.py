"""A text that is being said: token by token in the thread that computes, so that others get their turn in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Literal

from numpy.typing import NDArray

from trimodal.errors import InputError
from trimodal.serving.refusals import refuse_bad, refuse_late
from trimodal.serving.requests import Options, Text
from trimodal.serving.served_model import ServedModel

_UNFINISHED = "\ufffd"  # a character of which more tokens are to come


def join_texts(said: Sequence[Text]) -> Text:
    """What was said of a sound in windows, as one text."""
    if len(said) == 1:
        return said[0]
    finish: Literal["stop", "length"] = "length" if any(one.finish == "length" for one in said) else "stop"
    whole = " ".join(one.text.strip() for one in said if one.text.strip())
    return Text(whole, finish, sum(one.tokens for one in said), sum(one.prompt_tokens for one in said))


class Speaking:
    """One answer of a model that generates, for arrays (1, …), of at most `most` tokens, worded as `options` say, until the time `until` of
    the monotonic clock. `note` is told the seconds that each token was computed."""

    def __init__(
        self, model: ServedModel, arrays: Mapping[str, NDArray[Any]], most: int, options: Options, until: float, executor: Executor,
        note: Callable[[float], None],
    ) -> None:  # fmt: skip
        self._model, self._most, self._until, self._executor, self._note = model, most, until, executor, note
        self._prompt = int(arrays["input_ids"].shape[-1]) if "input_ids" in arrays else 0
        self._stop = options.wording.stop
        self._tokens = model.runner.generate(arrays, most, options.language, options.wording)

    async def say_all(self) -> Text:
        """The whole text.

        Raises:
            RefusedError: 504 the time is over; 400 the prompt leaves no room, or the language is not known.
        """
        said = list[int]()
        async for token in self._advance():
            said.append(token)
            if self._stop and self._find_stop(self._model.spell(said)) is not None:
                break
        return self._finish(said)

    async def pieces(self) -> AsyncGenerator[str | Text, None]:
        """What is new of the text with each token, as far as whole characters go, and at last all of it.

        Raises:
            RefusedError: as `say_all`.
        """
        said, told = list[int](), ""
        async for token in self._advance():
            said.append(token)
            text = self._model.spell(said)
            if self._find_stop(text) is not None:
                break
            text = text[: len(text) - self._count_held(text)]
            if not text.endswith(_UNFINISHED) and text.startswith(told) and len(text) > len(told):
                yield text[len(told) :]
                told = text
        whole = self._finish(said)
        if len(whole.text) > len(told):
            yield whole.text[len(told) :]
        yield whole

    def _finish(self, said: list[int]) -> Text:
        text = self._model.spell(said)
        end = self._find_stop(text)
        whole = end is None and len(said) >= self._most
        return Text(text[:end], "length" if whole else "stop", len(said), self._prompt)

    def _find_stop(self, text: str) -> int | None:
        """Where in `text` the first of the strings begins before which it ends."""
        return min((place for place in map(text.find, self._stop) if place >= 0), default=None)

    def _count_held(self, text: str) -> int:
        """How many letters at the end of `text` may be the beginning of a string before which it ends."""
        most = max(map(len, self._stop), default=1) - 1
        return next((held for held in range(min(most, len(text)), 0, -1) if any(s.startswith(text[-held:]) for s in self._stop)), 0)

    async def _advance(self) -> AsyncIterator[int]:
        loop = asyncio.get_running_loop()
        while True:
            if time.monotonic() > self._until:
                raise refuse_late()
            try:
                token, seconds = await loop.run_in_executor(self._executor, _take_next, self._tokens)
            except InputError as refused:
                raise refuse_bad(str(refused)) from refused
            self._note(seconds)
            if token is None:
                return
            yield token


def _take_next(tokens: Iterator[int]) -> tuple[int | None, float]:
    """The next token, and the seconds that it took in this thread."""
    begun = time.monotonic()
    token = next(tokens, None)
    return token, time.monotonic() - begun

"""Which samples are computed together, and what becomes of those that nobody waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trimodal.errors import InputError
from trimodal.runtimes.session import RunError
from trimodal.serving.batching import Batcher
from trimodal.serving.refusals import RefusedError

Arrays = Mapping[str, NDArray[Any]]


class Doubler:
    """Twice its input; refuses batches with a 13 in them. Remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, component: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        self.sizes.append(len(arrays["x"]))
        if (arrays["x"] == 13).any():
            raise InputError("unlucky")
        if (arrays["x"] == 17).any():
            raise RunError("/onnxruntime_src/onnxruntime/core/gather.cc:42 indices element out of data bounds")
        return {"y": 2 * arrays["x"]}


def compute(
    waiting: list[NDArray[Any]], together: frozenset[str] = frozenset({"part"}), seconds: float = 60
) -> tuple[list[Any], list[int]]:
    """All of `waiting` in the queue before the first is computed: what each gets, and the batches."""

    async def whole() -> list[Any]:
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(doubler.run, pool, 4, together)
            asked = [asyncio.create_task(batcher.compute("part", {"x": x}, time.monotonic() + seconds)) for x in waiting]
            await asyncio.sleep(0)
            batcher.start()
            found = await asyncio.gather(*asked, return_exceptions=True)
            await batcher.stop()
            return found

    doubler = Doubler()
    return asyncio.run(whole()), doubler.sizes


def rows(value: float, length: int = 2, count: int = 1) -> NDArray[Any]:
    return np.full((count, length), value)


def test_those_of_one_shape_go_together_up_to_the_limit() -> None:
    found, sizes = compute([rows(n) for n in range(6)])
    assert sizes == [4, 2]
    assert [one["y"][0, 0] for one in found] == [0, 2, 4, 6, 8, 10]


def test_other_shapes_wait_for_their_own_batch() -> None:
    found, sizes = compute([rows(1), rows(2, 3), rows(3), rows(4, 3, 2)])
    assert sizes == [2, 3]
    assert [one["y"].shape for one in found] == [(1, 2), (1, 3), (1, 2), (2, 3)]


def test_components_that_cannot_be_joined_are_computed_one_by_one() -> None:
    assert compute([rows(1), rows(2)], frozenset())[1] == [1, 1]


def test_one_that_fails_fails_alone() -> None:
    found, sizes = compute([rows(1), rows(13), rows(3)])
    assert sizes == [3, 1, 1, 1]
    assert found[0]["y"][0, 0] == 2 and found[2]["y"][0, 0] == 6
    assert isinstance(found[1], RefusedError) and int(found[1].status) == 400


def test_what_a_runtime_says_is_not_told() -> None:
    found, _ = compute([rows(1), rows(17)])
    assert found[0]["y"][0, 0] == 2
    assert isinstance(found[1], RefusedError) and int(found[1].status) == 400 and "onnxruntime" not in str(found[1])


def test_those_whose_time_is_over_are_not_computed() -> None:
    found, sizes = compute([rows(1), rows(2)], seconds=0)
    assert not sizes
    assert all(isinstance(one, RefusedError) and int(one.status) == 504 for one in found)


def test_what_waits_at_the_end_is_told_so() -> None:
    async def whole() -> None:
        batcher = Batcher(Doubler().run, ThreadPoolExecutor(1), 4, frozenset())
        asked = asyncio.create_task(batcher.compute("part", {"x": rows(1)}, time.monotonic() + 60))
        await asyncio.sleep(0)
        assert batcher.queued == 1
        await batcher.stop()
        with pytest.raises(RefusedError):
            await asked

    asyncio.run(whole())

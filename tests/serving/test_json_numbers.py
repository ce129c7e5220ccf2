"""Numbers of an answer in JSON: those of their type exactly, and no more digits than tell them apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fake_service import FakeService
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from trimodal.serving.open_inference.calls import InferResponse
from trimodal.serving.open_inference.datatypes import TYPES
from trimodal.serving.open_inference.directory import find_entry
from trimodal.serving.open_inference.requests import InferRequest
from trimodal.serving.open_inference.responses import write_response
from trimodal.serving.refusals import RefusedError

NUMBERS = [TYPES[name] for name in TYPES if name not in ("FP16", "BYTES")]


def write(array: NDArray[Any]) -> bytes:
    request = InferRequest(find_entry(FakeService(), "adder", ""), {})
    return write_response(InferResponse(request, {"out": array})).data


def read(data: bytes) -> list[Any]:
    found: list[Any] = json.loads(data)["outputs"][0]["data"]
    return found


@given(st.sampled_from(NUMBERS).flatmap(lambda kind: arrays.arrays(kind, (2, 3), elements={"allow_nan": False, "allow_infinity": False}
                                                                  if kind.startswith("float") else None)))  # fmt: skip
def test_numbers_come_back_as_they_were(array: NDArray[Any]) -> None:
    assert np.array_equal(np.array(read(write(array)), dtype=array.dtype).reshape(2, 3), array)


def test_floats_have_the_digits_of_their_type() -> None:
    assert b'"data":[0.1]' in write(np.array([0.1], dtype="float32"))
    assert b'"data":[0.10000000149011612]' in write(np.array([0.1], dtype="float32").astype("float64"))


def test_the_order_is_that_of_rows_whatever_lies_in_memory() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3)
    assert read(write(array.T)) == [0, 3, 1, 4, 2, 5] and read(write(array[:, ::2])) == [0, 2, 3, 5]


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_json_has_no_number_for_is_refused(number: float) -> None:
    with pytest.raises(RefusedError, match="not finite"):
        write(np.array([number], dtype="float32"))

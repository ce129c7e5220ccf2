"""Whatever a user's code raises becomes one clear error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trimodal.errors import DataError, ModelError
from trimodal.models.foreign import StopForward, last_line_of, run_foreign, run_forward


class OfItsOwn(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Failing(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> None:
        raise self.error


@pytest.mark.parametrize("error", [
    KeyError("x"), AssertionError(), NotImplementedError("x"), StopIteration(), SystemExit(3), OfItsOwn(), MemoryError(),
    ExceptionGroup("several", [ValueError("x")]), torch.OutOfMemoryError("x"),
])  # fmt: skip
def test_any_class_of_error(error: BaseException) -> None:
    with pytest.raises(ModelError, match=rf"the forward pass of Failing on x \(2, 3\) failed \({type(error).__name__}") as raised:
        run_forward(Failing(error), {"x": torch.zeros(2, 3)})
    assert raised.value.__cause__ is error


def test_the_message_ends_with_the_last_line_and_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"^reading failed \(ValueError: the end\); try again$"):
        run_foreign("reading", lambda: (_ for _ in ()).throw(ValueError("a start\nthe end\n")), "try again")
    assert last_line_of(ValueError("x" * 999)) == f"ValueError: {'x' * 240}"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("line 3"), StopForward()])
def test_what_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        run_forward(Failing(error), {"x": torch.zeros(1)})
    assert raised.value is error

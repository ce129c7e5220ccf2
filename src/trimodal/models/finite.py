"""Numbers that are not finite: where they are, and a refusal of a model that has them.

One NaN makes a hundred: the scale of its group, the second moment of the next layer, every output. So a model is looked through
when it enters. Of parameters every number must be finite. A buffer may hold ±∞ on purpose, an additive attention mask for
one, but no NaN; the running mean and variance of a norm must be finite as well. Buffers that are not saved are computed by the
model itself and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trimodal.errors import ModelError

_AT_ONCE = 2**24
_RUNNING = ("running_mean", "running_var")


@dataclass(frozen=True)
class NonFiniteTensor:
    """What of one tensor is not finite: how many numbers, and the index of the first."""

    name: str
    count: int
    first: tuple[int, ...]

    def __str__(self) -> str:
        numbers = "number that is" if self.count == 1 else "numbers that are"
        return f"{self.name} holds {self.count:,} {numbers} not finite, the first at {list(self.first)}"


def iter_nonfinite_tensors(module: nn.Module) -> Iterator[NonFiniteTensor]:
    """The tensors of `module` that hold what they must not, each once."""
    seen: set[int] = set()
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        strict = name in parameters or name.rpartition(".")[2] in _RUNNING
        found = find_nonfinite(name, tensor, infinite=strict)
        if found is not None:
            yield found


def find_nonfinite(name: str, tensor: Tensor, infinite: bool = True) -> NonFiniteTensor | None:
    """What of `tensor`, of any shape, is NaN, or with `infinite` not finite; None if nothing is, or it holds no floating-point
    numbers."""
    if not tensor.is_floating_point() and not tensor.is_complex():
        return None
    flat, count, first = tensor.detach().reshape(-1), 0, -1
    for start in range(0, len(flat), _AT_ONCE):
        part = flat[start : start + _AT_ONCE]
        part = part.float() if part.element_size() == 1 else part  # float8 knows no such question
        if part.sum().isfinite():  # one bad number makes the sum bad: most tensors need but this look
            continue
        bad = ~part.isfinite() if infinite else part.isnan()
        here = int(bad.sum())
        first = start + int(bad.to(torch.uint8).argmax()) if here and first < 0 else first
        count += here
    if not count:
        return None
    return NonFiniteTensor(name, count, tuple(int(i) for i in torch.unravel_index(torch.tensor(first), tensor.shape)))


def check_finite(module: nn.Module, name: str) -> None:
    """Refuse a model that holds numbers which are not finite.

    Raises:
        ModelError: it does; the first such tensor is named.
    """
    found = list(iter_nonfinite_tensors(module))
    if found:
        others = f"; {len(found) - 1} more tensors do too" if len(found) > 1 else ""
        raise ModelError(
            f"{name}: {found[0]}{others}; expected finite weights: copy or download it again, or find out where its training failed"
        )

"""A public call leaves the process as it found it, also when it fails."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import trimodal
from trimodal.errors import TrimodalError
from trimodal.models.process import leaves_process_unchanged


def _meddling() -> nn.Module:
    """What a careless factory may do to a process."""
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(torch.get_num_threads() + 1)
    warnings.simplefilter("error")
    logging.getLogger("transformers").setLevel(logging.DEBUG)
    logging.disable(logging.CRITICAL)
    return nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).float()


def _process() -> list[Any]:
    return [
        torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_default_dtype(),  # type: ignore[index]
        torch.is_grad_enabled(), torch.get_num_threads(), list(warnings.filters), logging.getLogger("transformers").level,
        logging.root.manager.disable,
    ]  # fmt: skip


def _failing() -> nn.Module:
    _meddling()
    raise ValueError("no")


VERBS: dict[str, Callable[[Any, Path], Any]] = {
    "inspect": lambda factory, out: trimodal.inspect(factory),
    "plan": lambda factory, out: trimodal.plan(factory, "int8"),
    "compress": lambda factory, out: trimodal.compress(factory, "int8", None, out / "out"),
    "load": lambda factory, out: trimodal.load(out / "made", factory=factory),
    "verify": lambda factory, out: trimodal.verify(out / "made", factory, out / "nothing.jsonl"),
    "pack": lambda factory, out: trimodal.pack(out / "made", out / "packed"),
}


@pytest.mark.parametrize("factory", [_meddling, _failing])
@pytest.mark.parametrize("verb", VERBS)
def test_the_process_is_as_before(verb: str, factory: Callable[[], nn.Module], tmp_path: Path) -> None:
    logging.getLogger("transformers").setLevel(logging.WARNING)
    if verb in ("load", "verify", "pack"):
        trimodal.compress(_meddling, "int8", None, tmp_path / "made")
    before = _process()
    try:
        VERBS[verb](factory, tmp_path)
    except TrimodalError:
        assert factory is _failing or verb == "verify"
    assert _process() == before


def test_what_a_verb_returns_and_is_called() -> None:
    @leaves_process_unchanged
    def double(x: int) -> int:
        """Twice."""
        return 2 * x

    assert double(x=3) == 6 and double.__doc__ == "Twice."

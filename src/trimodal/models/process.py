"""The state of the user's process, which a call leaves as it found it, also when it fails."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import torch

Given = ParamSpec("Given")
Result = TypeVar("Result")


@contextmanager
def preserve_process_state() -> Iterator[None]:
    """Put back afterwards what a process has only once: the states of all random generators, the default type, whether
    gradients are on, the number of threads, the filters of warnings, the levels of loggers."""
    chance, floats, threads, gradients = _get_rng_states(), torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    levels = {logger: logger.level for logger in _list_loggers()}
    silenced = logging.root.manager.disable
    with warnings.catch_warnings():
        try:
            yield
        finally:
            _set_rng_states(chance)
            torch.set_default_dtype(floats)
            torch.set_grad_enabled(gradients)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            for logger, level in levels.items():
                logger.setLevel(level)
            logging.disable(silenced)


@contextmanager
def draw_from_seed(seed: int) -> Iterator[None]:
    """While open numpy's own generator, from which processors draw, begins at `seed`; afterwards it goes on where it was."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def leaves_process_unchanged(verb: Callable[Given, Result]) -> Callable[Given, Result]:
    """`verb`, which leaves the process as it found it."""

    @wraps(verb)
    def kept(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        with preserve_process_state():
            return verb(*args, **kwargs)

    return kept


def _list_loggers() -> list[logging.Logger]:
    known = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(logger for logger in known if isinstance(logger, logging.Logger))]


_Chance = tuple[torch.Tensor, list[torch.Tensor], object, object]


def _get_rng_states() -> _Chance:
    """The states of torch's, the accelerators', numpy's and Python's generators."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), devices, np.random.get_state(), random.getstate()


def _set_rng_states(state: _Chance) -> None:
    own, devices, numbers, plain = state
    torch.set_rng_state(own)
    if devices:
        torch.cuda.set_rng_state_all(devices)
    np.random.set_state(numbers)  # type: ignore[arg-type]
    random.setstate(plain)  # type: ignore[arg-type]

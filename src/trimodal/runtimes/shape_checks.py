"""Whether arrays fit a file, before and after it runs. Not every runtime looks: OpenVINO answers a text that is longer than a model's table
of positions with what lay in memory.

Shapes are those of export.json: a number, or a word for a length that varies, the same wherever the word is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trimodal.errors import InputError, IntegrityError
from trimodal.runtimes.session import Arrays

Shapes = Mapping[str, Sequence[int | str]]
_TEXT = "input_ids"
_IDS = ("input_ids", "decoder_input_ids")


def check_ids(inputs: Arrays, words: int | None) -> None:
    """Hold ids of any shape to a vocabulary of `words`, of which not every runtime would notice that there is no such word.

    Raises:
        InputError: an id is below 0 or not below `words`.
    """
    for name in _IDS:
        ids = np.asarray(inputs.get(name, ()))
        if words is not None and ids.size and not (ids.min() >= 0 and ids.max() < words):
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise InputError(f"{name} holds {wrong}; the model knows the words 0 to {words - 1}: is this its own tokenizer?")


def check_inputs(component: str, shapes: Shapes, inputs: Arrays, most_tokens: int | None = None) -> dict[str, int]:
    """The lengths behind the words of `shapes`, which `inputs` of any shape give; texts may have `most_tokens`.

    Raises:
        InputError: an input has another shape than the file takes, or two disagree about a length.
    """
    lengths: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs or all(isinstance(n, int) for n in shape):  # files of fixed shapes are filled up by their session
            continue
        found = np.shape(inputs[name])
        if not _fits(found, shape, lengths):
            raise InputError(f"{component} takes {name} of shape {_describe(shape, lengths)}, not {_describe(found, {})}")
        if name == _TEXT and most_tokens is not None and len(found) == 2 and found[1] > most_tokens:
            raise InputError(f"{component} takes texts of at most {most_tokens} tokens, {name} has {found[1]}; cut it")
    return lengths


def check_outputs(component: str, shapes: Shapes, outputs: Arrays, lengths: Mapping[str, int]) -> None:
    """Hold `outputs` of any shape to the lengths of the inputs.

    Raises:
        IntegrityError: one has another shape, so that it is no answer to these inputs.
    """
    known = dict(lengths)
    for name, shape in shapes.items():
        if name in outputs and not all(isinstance(n, int) for n in shape) and not _fits(np.shape(outputs[name]), shape, known):
            raise IntegrityError(
                f"{component} gave {name} of shape {_describe(np.shape(outputs[name]), {})}, expected {_describe(shape, known)}: the "
                "runtime did not compute it from these inputs"
            )


def _fits(found: Sequence[int], shape: Sequence[int | str], lengths: dict[str, int]) -> bool:
    """Whether `found` is of the `shape`; notes down the lengths of words that were not met before."""
    if len(found) != len(shape):
        return False
    for size, wanted in zip(found, shape, strict=True):
        if isinstance(wanted, int):
            if size != wanted:
                return False
        elif wanted.isidentifier() and lengths.setdefault(wanted, size) != size:  # `a + b` is left to the runtime
            return False
    return True


def _describe(shape: Sequence[int | str], lengths: Mapping[str, int]) -> str:
    return f"({', '.join(str(lengths.get(str(n), n)) for n in shape)})"

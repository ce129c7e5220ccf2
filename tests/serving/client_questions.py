"""What clients ask in the Open Inference Protocol, and what they must get; as JSON for clients in an environment of their own.

Only NumPy and the standard library here: KServe's environment has nothing of ours.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATATYPES = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}


@dataclass(frozen=True)
class Question:
    """Tensors for `model` by name, with the request's `parameters`. `answers` are what it gives in Python, by who computes there; numbers
    may be `within` so much of the largest of them."""

    model: str
    inputs: dict[str, NDArray[Any]]
    within: dict[str, float]
    answers: dict[str, dict[str, NDArray[Any]]]
    parameters: dict[str, int] = field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, NDArray[Any]]:
        """The answers of what is nearest to what is served."""
        return next(iter(self.answers.values()))

    @property
    def can_be_text(self) -> bool:
        """Whether JSON can hold what is asked: texts and numbers, no files."""
        return not {"image", "audio"} & set(self.inputs)

    def check(self, found: Mapping[str, NDArray[Any]]) -> None:
        """Compare with what a client got: the same labels, best first, with scores near those known; the same texts; near numbers."""
        for engine, answers in self.answers.items():
            for name, known in answers.items():
                where = f"{self.model} {name}, {engine}"
                if name.endswith("score"):
                    label = name.removesuffix("score") + "label"
                    _check_scores(_pair(found[label], found[name]), _pair(answers[label], known), self.within[engine], where)
                elif known.dtype != object:
                    assert found[name].dtype == known.dtype and found[name].shape == known.shape, where
                    np.testing.assert_allclose(found[name], known, atol=self.within[engine] * np.abs(known).max(), rtol=0, err_msg=where)
                elif not name.endswith("label") and engine == next(iter(self.answers)):
                    assert found[name].tolist() == known.tolist(), where


def _check_scores(found: list[dict[bytes, float]], known: list[dict[bytes, float]], within: float, where: str) -> None:
    for told, wanted in zip(found, known, strict=True):
        assert list(told.values()) == sorted(told.values(), reverse=True) and set(told) == set(wanted), where
        np.testing.assert_allclose([told[label] for label in wanted], list(wanted.values()), atol=within, rtol=0, err_msg=where)


def as_bytes(values: Sequence[Any]) -> NDArray[Any]:
    """Files and texts as a BYTES tensor."""
    return np.array([value.encode() if isinstance(value, str) else value for value in values], dtype=object)


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Arrays as JSON."""
    return {
        name: [str(value.dtype), list(value.shape), [_pack(one) for one in value.reshape(-1).tolist()]] for name, value in arrays.items()
    }


def unpack_arrays(packed: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """What `pack_arrays` packed."""
    found = {}
    for name, (kind, shape, values) in packed.items():
        array = np.empty(len(values), dtype=kind)
        array[:] = [base64.b64decode(value) if kind == "object" else value for value in values]
        found[name] = array.reshape(shape)
    return found


def _pack(value: Any) -> Any:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode() if isinstance(value, bytes | str) else value


def _pair(labels: NDArray[Any], scores: NDArray[Any]) -> list[dict[bytes, float]]:
    return [dict(zip(row.tolist(), values.tolist(), strict=True)) for row, values in zip(labels, scores, strict=True)]

"""Files and texts in BYTES tensors to items, and answers to tensors: what `MODEL.TASK` takes and gives.

    embed       embedding FP32 (n, width)
    classify    label BYTES (n, k), score FP32 (n, k), best first; further outputs of the model as OUTPUT.label and OUTPUT.score
    detect      label BYTES (n, k), score FP32 (n, k), box FP32 (n, k, 4) as x0 y0 x1 y1 in fractions of the image
    transcribe  text BYTES (n)
    ask         text BYTES (n)

Where items have different numbers of labels or boxes, shorter rows end in empty labels with the score 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.serving.limits import Limits
from trimodal.serving.refusals import RefusedError, refuse_bad
from trimodal.serving.requests import Answer, Boxes, Classes, Embedding, Item, Options, Text
from trimodal.serving.strict_json import take_integer, take_string

Arrays = dict[str, NDArray[Any]]


def make_items(arrays: Mapping[str, NDArray[Any]]) -> list[Item]:
    """One item per row of the tensors `image`, `audio`, `text`.

    Raises:
        RefusedError: 400, a text is not UTF-8, or has NUL.
    """
    columns = {name: array.reshape(-1) for name, array in arrays.items() if name != "labels"}
    count = max((len(column) for column in columns.values()), default=0)
    made = []
    for row in range(count):
        parts: dict[str, Any] = {name: column[row] for name, column in columns.items()}
        if "text" in parts:
            parts["text"] = _read_text(parts["text"], "text")
        made.append(Item(**parts))
    return made


def make_options(arrays: Mapping[str, NDArray[Any]], wishes: Mapping[str, Any], limits: Limits) -> Options:
    """How a task is done, from the tensor `labels` and the request's parameters.

    Raises:
        RefusedError: 400, a value of another kind or out of range.
    """
    labels = tuple(_read_text(label, "labels") for label in arrays["labels"].reshape(-1)) if "labels" in arrays else ()
    read: dict[str, Any] = {"labels": labels}
    for name, most in (("top", 1000), ("max_tokens", limits.new_tokens), ("dimensions", 1_000_000)):
        if name in wishes:
            read[name] = take_integer(wishes[name], name, 1, most)
    if "language" in wishes:
        read["language"] = take_string(wishes["language"], "language", 64)
    return Options(**read)


def make_tensors(answers: Sequence[Answer | RefusedError]) -> Arrays:
    """The answers of all items as tensors.

    Raises:
        RefusedError: that of the first item that got none: tensors have no place for it.
    """
    for place, answer in enumerate(answers):
        if isinstance(answer, RefusedError):
            raise RefusedError(answer.status, f"item {place}: {answer}", retry_after=answer.retry_after, field=answer.field)
    first = answers[0]
    if isinstance(first, Embedding):
        return {"embedding": np.stack([answer.vector for answer in answers if isinstance(answer, Embedding)]).astype(np.float32)}
    if isinstance(first, Text):
        return {"text": _as_bytes([[answer.text] for answer in answers if isinstance(answer, Text)])[:, 0]}
    if isinstance(first, Boxes):
        return _stack_boxes([answer for answer in answers if isinstance(answer, Boxes)])
    return _stack_classes([answer for answer in answers if isinstance(answer, Classes)])


def _stack_classes(answers: Sequence[Classes]) -> Arrays:
    tensors: Arrays = {}
    for number, output in enumerate(answers[0].by_output):
        rows = [answer.by_output[output] for answer in answers]
        before = "" if number == 0 else f"{output}."
        tensors[f"{before}label"] = _as_bytes([[label for label, _ in row] for row in rows])
        tensors[f"{before}score"] = _as_floats([[score for _, score in row] for row in rows])
    return tensors


def _stack_boxes(answers: Sequence[Boxes]) -> Arrays:
    most = max(len(answer.found) for answer in answers)
    boxes = np.zeros((len(answers), most, 4), dtype=np.float32)
    for row, answer in enumerate(answers):
        for column, (_, _, box) in enumerate(answer.found):
            boxes[row, column] = box
    labels = _as_bytes([[label for label, _, _ in answer.found] for answer in answers])
    return {"label": labels, "score": _as_floats([[score for _, score, _ in answer.found] for answer in answers]), "box": boxes}


def _as_bytes(rows: Sequence[Sequence[str]]) -> NDArray[Any]:
    array = np.full((len(rows), max(map(len, rows))), b"", dtype=object)
    for row, labels in enumerate(rows):
        array[row, : len(labels)] = [label.encode("utf-8", "replace") for label in labels]
    return array


def _as_floats(rows: Sequence[Sequence[float]]) -> NDArray[Any]:
    array = np.zeros((len(rows), max(map(len, rows))), dtype=np.float32)
    for row, scores in enumerate(rows):
        array[row, : len(scores)] = scores
    return array


def _read_text(data: bytes, field: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise refuse_bad(f"{field} is not UTF-8", field) from None
    if "\0" in text:
        raise refuse_bad(f"{field} has the character NUL", field)
    return text

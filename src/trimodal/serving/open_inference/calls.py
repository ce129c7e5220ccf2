"""One request of the protocol carried out by the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from trimodal.serving.open_inference.requests import InferRequest
from trimodal.serving.open_inference.tasks import make_items, make_options, make_tensors
from trimodal.serving.service import Service


@dataclass(frozen=True)
class InferResponse:
    """What was answered to `request`: tensors by name, in the order in which they go out."""

    request: InferRequest
    tensors: dict[str, NDArray[Any]]


async def call_service(service: Service, request: InferRequest) -> InferResponse:
    """The answer to `request`: of its component, or of its task.

    Raises:
        RefusedError: as the service says; of a task, what the first bad item got.
    """
    entry = request.entry
    if entry.component is not None:
        tensors = await service.infer(entry.card.name, entry.component, request.arrays, outputs=request.outputs, seconds=request.seconds)
    else:
        assert entry.task is not None
        options = make_options(request.arrays, request.wishes, service.limits)
        answers = await service.answer(entry.card.name, entry.task, make_items(request.arrays), options, seconds=request.seconds)
        tensors = make_tensors(answers)
    names = request.outputs or tuple(tensors)
    return InferResponse(request, {name: tensors[name] for name in names})

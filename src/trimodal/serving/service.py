"""All that is served in one process: models by name, and what can be asked of them. Protocols call this and nothing else.

    service = Service([open_served("demo-out")], Limits())
    await service.start()
    answers = await service.answer("demo-out", "classify", [Item(image=…, audio=…, text="sum")])
    await service.stop()
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from trimodal.serving.limits import Limits
from trimodal.serving.refusals import RefusedError
from trimodal.serving.requests import Answer, Item, ModelCard, Options, Task, Text

Arrays = Mapping[str, NDArray[Any]]


class Service:
    """The models of one process. All methods that are `async` run in one event loop."""

    limits: Limits

    async def start(self) -> None:
        """Open what is needed and prove that the models answer as recorded; `ready` afterwards."""

    async def stop(self) -> None:
        """Take nothing more, wait for what is under way (at most `limits.drain_seconds`), let go of everything."""

    @property
    def ready(self) -> bool:
        """Whether every model answers, and nothing is being shut down."""
        raise NotImplementedError

    def list_models(self) -> Sequence[ModelCard]:
        """What is told of each model, in the order in which they were given."""
        raise NotImplementedError

    def find_model(self, name: str, version: str = "") -> ModelCard:
        """One model.

        Raises:
            RefusedError: 404, there is none of that name or version.
        """
        raise NotImplementedError

    async def infer(self, name: str, component: str, arrays: Arrays, *, outputs: Sequence[str] = (), seconds: float | None = None) -> dict[str, NDArray[Any]]:
        """Arrays (batch, …) by input -> arrays by output, of one component. `seconds` is the deadline from now.

        Raises:
            RefusedError: 400 names, types or shapes; 404; 429 the queue is full; 503; 504.
        """
        raise NotImplementedError

    async def answer(self, name: str, task: Task, items: Sequence[Item], options: Options = Options(), *, seconds: float | None = None) -> list[Answer | RefusedError]:
        """An answer per item, in order; where one item is bad, a refusal stands in its place and the others are answered.

        Raises:
            RefusedError: what concerns the whole request: 404 model, 400 task or options, 413 too many, 429, 503, 504.
        """
        raise NotImplementedError

    def stream(self, name: str, item: Item, options: Options = Options(), *, seconds: float | None = None) -> AsyncIterator[str | Text]:
        """The pieces of a text as they are said, and at last the whole `Text`. Closing the iterator ends the work.

        Raises:
            RefusedError: as `answer`, before the first piece.
        """
        raise NotImplementedError

    def count(self, name: str) -> Mapping[str, float]:
        """Statistics of a model since the start: `requests`, `items`, `failed`, `refused`, `queued` now, seconds in `queue`, `encode`, `compute`."""
        raise NotImplementedError

"""A service without models: what protocols call, with answers that a test can foretell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.serving.limits import Limits
from trimodal.serving.refusals import RefusedError, refuse_bad, refuse_unknown
from trimodal.serving.requests import (
    Answer,
    Boxes,
    Classes,
    ComponentCard,
    Embedding,
    Item,
    ModelCard,
    Options,
    Task,
    TensorSpec,
    Text,
)
from trimodal.serving.service import Service

WIDTH = 4


def _component(
    name: str, inputs: Sequence[tuple[str, str, tuple[int, ...]]], outputs: Sequence[tuple[str, str, tuple[int, ...]]]
) -> ComponentCard:
    return ComponentCard(name, tuple(TensorSpec(*spec) for spec in inputs), tuple(TensorSpec(*spec) for spec in outputs))


ADDER = ModelCard(
    "adder", "1", "bert", "onnxruntime", ("embed",), ("text",),
    (_component("model", [("a", "int64", (-1, 3)), ("b", "int64", (-1, 3))],
                [("sum", "int64", (-1, 3)), ("mean", "float32", (-1,))]),), width=WIDTH,
)  # fmt: skip
PAIR = ModelCard(
    "pair", "2", "clip", "onnxruntime", ("embed", "classify"), ("image", "text"),
    (_component("vision", [("pixels", "float32", (-1, 2))], [("vector", "float32", (-1, 2))]),
     _component("text", [("ids", "int64", (-1, -1))], [("vector", "float32", (-1, 2))])),
    width=WIDTH,
)  # fmt: skip
SIGHT = ModelCard(
    "sight", "1", "vit", "openvino", ("classify", "detect"), ("image", "audio", "text"),
    (_component("model", [("pixels", "float16", (-1, 2))], [("logits", "float16", (-1, 2))]),),
    labels=("cat", "dog"),
)  # fmt: skip
SPEECH = ModelCard(
    "speech", "1", "whisper", "onnxruntime", ("transcribe",), ("audio",), (_component("encoder", [], []), _component("decoder", [], []))
)
TALK = ModelCard(
    "talk", "1", "llava", "onnxruntime", ("ask",), ("image", "text"), (_component("encoder", [], []), _component("decoder", [], []))
)


class FakeService(Service):
    """Answers at once; `hold` makes it wait, `refusal` is what it says instead, `cancelled` and `calls` tell what happened."""

    def __init__(self, limits: Limits = Limits(), cards: Sequence[ModelCard] = (ADDER, PAIR, SIGHT, SPEECH, TALK)) -> None:
        self.limits, self.cards = limits, list(cards)
        self.refusal: Exception | None = None
        self.hold, self.cancelled, self.is_ready = 0.0, 0, True
        self.calls: list[dict[str, Any]] = []
        self.counted: dict[str, dict[str, float]] = {
            card.name: dict.fromkeys(("requests", "items", "failed", "refused", "queued", "queue", "encode", "compute"), 0.0)
            for card in cards
        }

    @property
    def ready(self) -> bool:
        return self.is_ready

    def list_models(self) -> Sequence[ModelCard]:
        return self.cards

    def find_model(self, name: str, version: str = "") -> ModelCard:
        found = next((card for card in self.cards if card.name == name and version in ("", card.version)), None)
        if found is None:
            raise refuse_unknown("there is no such model")
        return found

    def count(self, name: str) -> Mapping[str, float]:
        return self.counted[name]

    async def infer(
        self, name: str, component: str, arrays: Mapping[str, NDArray[Any]], *, outputs: Sequence[str] = (), seconds: float | None = None
    ) -> dict[str, NDArray[Any]]:
        await self._begin(name, {"component": component, "arrays": arrays, "seconds": seconds}, len(next(iter(arrays.values()))))
        if name == "adder":
            total = arrays["a"] + arrays["b"]
            return {"sum": total, "mean": total.mean(axis=1).astype(np.float32)}
        (array,) = arrays.values()
        spec = next(one for one in self.find_model(name).components if one.name == component).outputs[0]
        return {spec.name: (np.asarray(array, dtype=np.float64) * 2).astype(spec.type)}

    async def answer(
        self, name: str, task: Task, items: Sequence[Item], options: Options = Options(), *, seconds: float | None = None
    ) -> list[Answer | RefusedError]:
        card = self.find_model(name)
        if task not in card.tasks:
            raise refuse_bad(f"{name} does not {task}", "task")
        await self._begin(name, {"task": task, "items": items, "options": options, "seconds": seconds}, len(items))
        if options.dimensions not in (None, card.width):
            raise refuse_bad("dimensions cannot be chosen", "dimensions")
        return [self._answer(card, task, item, options) for item in items]

    async def stream(
        self, name: str, item: Item, options: Options = Options(), *, seconds: float | None = None
    ) -> AsyncIterator[str | Text]:
        await self._begin(name, {"item": item, "options": options, "seconds": seconds}, 1)
        words = ["It ", "is ", "a ", "cat."]
        try:
            for word in words:
                await asyncio.sleep(self.hold)
                yield word
            yield Text("".join(words), "stop", 4, 7)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise

    def write_prompt(self, name: str, messages: Sequence[Mapping[str, Any]]) -> str:
        return repr([(message["role"], message["content"]) for message in messages])

    async def _begin(self, name: str, call: dict[str, Any], items: int) -> None:
        self.calls.append(call)
        if self.refusal is not None:
            raise self.refusal
        self.counted[name]["requests"] += 1
        self.counted[name]["items"] += items
        self.counted[name]["compute"] += 0.5
        try:
            await asyncio.sleep(self.hold)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def _answer(self, card: ModelCard, task: Task, item: Item, options: Options) -> Answer | RefusedError:
        if item.text == "bad" or item.image == b"bad" or item.audio == b"bad":
            return refuse_bad("this cannot be read", "item")
        if task == "embed":
            size = sum(len(part) for part in (item.image or b"", item.audio or b"", item.text or ""))
            return Embedding(np.array([size, 1, 0.5, 0], dtype=np.float32), item.modalities[0], tokens=len((item.text or "").split()))
        if task == "classify":
            labels = options.labels or card.labels
            return Classes({"logits": [(label, 0.75 if place == 0 else 0.25) for place, label in enumerate(labels[: options.top])]})
        if task == "detect":
            return Boxes([("cat", 0.9, (0.0, 0.25, 0.5, 1.0))] * len(item.image or b"x"))
        return Text(f"{task}: {item.text or ''} {len(item.image or b'') + len(item.audio or b'')}".strip(), "stop", 3, 5)

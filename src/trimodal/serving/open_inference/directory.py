"""The names of the protocol, which knows one list of inputs per name, while a model of ours has components and tasks.

    MODEL.COMPONENT    the tensors of one file of the model: `clip.vision_model`, `minilm.model`
    MODEL.TASK         whole files and texts in BYTES tensors, answers out: `clip.embed`, `demo-out.classify`
    MODEL              the same as MODEL.COMPONENT where there is one component, else the same as MODEL.TASK of the first task

Names are looked up whole, never taken apart, so a model's name may have dots. Where a name would mean two things, a model goes before a
component, and a component before a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimodal.serving.open_inference.datatypes import name_datatype
from trimodal.serving.refusals import refuse_unknown
from trimodal.serving.requests import ComponentCard, ModelCard, Task
from trimodal.serving.service import Service
from trimodal.serving.strict_json import shorten


@dataclass(frozen=True)
class Tensor:
    """A tensor as the protocol tells of it; `optional` ones need not be sent."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Entry:
    """What one name stands for: a component, or a task, of `card`."""

    name: str
    card: ModelCard
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    component: str | None = None
    task: Task | None = None


def list_entries(cards: Sequence[ModelCard]) -> dict[str, Entry]:
    """All names, with what they stand for, in the order of the models."""
    entries: dict[str, Entry] = {}
    for card in cards:
        entries[card.name] = _describe_plain(card)
    for card in cards:
        for component in card.components:
            entries.setdefault(f"{card.name}.{component.name}", _describe_component(f"{card.name}.{component.name}", card, component))
        for task in card.tasks:
            entries.setdefault(f"{card.name}.{task}", _describe_task(f"{card.name}.{task}", card, task))
    return entries


class Directory:
    """All names of the models that are served, found anew only where a card has changed."""

    def __init__(self) -> None:
        self.known: tuple[tuple[ModelCard, ...], dict[str, Entry]] = (), {}

    def list(self, cards: Sequence[ModelCard]) -> dict[str, Entry]:
        """As `list_entries`."""
        before, entries = self.known  # read and written in one step: services may live in several threads
        if len(cards) != len(before) or any(card is not known for card, known in zip(cards, before)):
            entries = list_entries(cards)
            self.known = tuple(cards), entries
        return entries


_DIRECTORY = Directory()


def find_entry(service: Service, name: str, version: str = "") -> Entry:
    """What `name` stands for.

    Raises:
        RefusedError: 404, there is no such name, or not in that version.
    """
    entry = _DIRECTORY.list(service.list_models()).get(name)
    if entry is None:
        raise refuse_unknown(f"there is no model {shorten(name)!r}")
    if version and version != entry.card.version:
        raise refuse_unknown(f"model {shorten(name)!r} has no version {shorten(version)!r}; it has {entry.card.version!r}")
    return entry


def _describe_plain(card: ModelCard) -> Entry:
    if len(card.components) == 1 or not card.tasks:
        return _describe_component(card.name, card, card.components[0])
    return _describe_task(card.name, card, card.tasks[0])


def _describe_component(name: str, card: ModelCard, component: ComponentCard) -> Entry:
    inputs = tuple(Tensor(spec.name, name_datatype(spec.type), spec.shape) for spec in component.inputs)
    outputs = tuple(Tensor(spec.name, name_datatype(spec.type), spec.shape) for spec in component.outputs)
    return Entry(name, card, inputs, outputs, component=component.name)


def _describe_task(name: str, card: ModelCard, task: Task) -> Entry:
    alone = len(card.inputs) == 1
    inputs = [Tensor(modality, "BYTES", (-1,), optional=not alone) for modality in card.inputs]
    if task == "classify" and not card.labels:
        inputs.append(Tensor("labels", "BYTES", (-1,)))
    return Entry(name, card, tuple(inputs), _list_outputs(card, task), task=task)


def _list_outputs(card: ModelCard, task: Task) -> tuple[Tensor, ...]:
    if task == "embed":
        return (Tensor("embedding", "FP32", (-1, card.width or -1)),)
    if task == "classify":
        before = ["", *(f"{output}." for output in card.scored[1:])]
        kinds = (("label", "BYTES"), ("score", "FP32"))
        return tuple(Tensor(f"{output}{name}", kind, (-1, -1)) for output in before for name, kind in kinds)
    if task == "detect":
        return Tensor("label", "BYTES", (-1, -1)), Tensor("score", "FP32", (-1, -1)), Tensor("box", "FP32", (-1, -1, 4))
    return (Tensor("text", "BYTES", (-1,)),)

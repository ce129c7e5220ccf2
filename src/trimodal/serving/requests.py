"""What is asked and what is answered, in no protocol's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Task = Literal["embed", "classify", "detect", "transcribe", "ask"]
TASKS: tuple[Task, ...] = ("embed", "classify", "detect", "transcribe", "ask")


@dataclass(frozen=True)
class RemoteFile:
    """A file that lies at an address which the operator allows; `field` is where the request says so."""

    url: str
    field: str


@dataclass(frozen=True)
class Item:
    """One sample as a client gave it: whole files of an image and a sound, or where they are, and a text."""

    image: bytes | RemoteFile | None = None
    audio: bytes | RemoteFile | None = None
    text: str | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it holds."""
        return tuple(name for name in ("image", "audio", "text") if getattr(self, name) is not None)


@dataclass(frozen=True)
class Wording:
    """How the words of a text are chosen: the likeliest (`temperature` 0), or drawn among the likeliest whose probabilities come to
    `top_p`, the same again for the same `seed`; and before which strings it ends (`stop`)."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """How a task is done.

    `labels` are texts to choose among (`classify` of models that embed images or sounds, and texts); `top` how many are told; `max_tokens`
    how long a text may become; `language` what is spoken; `dimensions` how many numbers a vector must have;
    `wording` how a text is chosen.
    """

    labels: tuple[str, ...] = ()
    top: int = 5
    max_tokens: int | None = None
    language: str | None = None
    dimensions: int | None = None
    wording: Wording = Wording()


@dataclass(frozen=True)
class Embedding:
    """A vector float32 (width,) of length 1, and what it is of; `tokens` counts those of a text."""

    vector: NDArray[np.float32]
    modality: str
    tokens: int = 0


@dataclass(frozen=True)
class Classes:
    """The likeliest classes with their probability, best first, by output: most models have one, `logits`."""

    by_output: Mapping[str, Sequence[tuple[str, float]]]


@dataclass(frozen=True)
class Boxes:
    """What was found: (class, probability, (x0, y0, x1, y1) in fractions of the image's width and height), best first."""

    found: Sequence[tuple[str, float, tuple[float, float, float, float]]]


@dataclass(frozen=True)
class Text:
    """A text that was said, why it ended (`stop` or `length`), and how many tokens it and its prompt have."""

    text: str
    finish: Literal["stop", "length"] = "stop"
    tokens: int = 0
    prompt_tokens: int = 0


Answer = Embedding | Classes | Boxes | Text


@dataclass(frozen=True)
class TensorSpec:
    """A tensor by name: numpy's name of its type, and its shape with -1 for a length that may vary."""

    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ComponentCard:
    """One file of a model: what it takes and gives as tensors."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class ModelCard:
    """What is told of a served model: `inputs` are the modalities that it takes, `labels` its classes by number, `scored` its outputs that
    are scores of classes, the answer first, `bytes` its files'."""

    name: str
    version: str
    family: str
    runtime: str
    tasks: tuple[Task, ...]
    inputs: tuple[str, ...]
    components: tuple[ComponentCard, ...]
    labels: tuple[str, ...] = ()
    scored: tuple[str, ...] = ()
    width: int | None = None
    bytes: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


def tell_tasks(card: ModelCard) -> str:
    """What a model does, as the end of a sentence that begins with its name."""
    return f"does {', '.join(card.tasks)}" if card.tasks else "takes tensors only, at /v2/models"

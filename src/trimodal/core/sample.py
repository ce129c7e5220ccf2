"""One line of a data file, or one row of another source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODALITIES = ("image", "audio", "text")
SIGNAL = "signal"
TOKEN_KINDS = (*MODALITIES, "fusion", "answer", SIGNAL)
"""What a token can be: of a modality, of the fusion stream's own, of the answer that a decoder is to give, or of a signal."""


def name_signal(stream: str) -> str:
    """The field of the signal that a model calls `stream`: `signal.vitals`; `signal` where it is called so."""
    return stream if stream == SIGNAL else f"{SIGNAL}.{stream}"


def is_signal(field: object) -> bool:
    """Whether a field, or a modality, is a signal."""
    return isinstance(field, str) and (field == SIGNAL or (field.startswith(f"{SIGNAL}.") and len(field) > len(SIGNAL) + 1))


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a sound or a signal that a source has in its own keeping, not in a file that can be named.

    Two of one content are equal: they are compared by `sha256`, that of the pixels, the waveform or the numbers. `load` gets it anew
    each time: a PIL image, a mono float32 waveform (frames,) with its rate in Hz, or float32 (steps, channels) or (features,).
    """

    sha256: str
    load: Callable[[], Any] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class TensorInputs:
    """What a model's forward is given for one sample, made by the source itself, without the dimension of the batch.

    Two of one content are equal: they are compared by `sha256`. `shapes` are (name, shape), so that those of one shape go together;
    a name that is a number counts forward's parameters. `load` gets the tensors by name, anew each time.
    """

    sha256: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    load: Callable[[], Any] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a data file: any of image, audio (files, or in memory), text and signals, and what the task needs.

    `signals` are files or numbers by field: `signal.vitals`. `label` is the class of the whole sample, `labels` further classes by name
    (`image`: the digit shown), `target` the text a decoder is to produce. Samples of one `group` are never split between calibration and
    verification. `split` is `train`, `test` or empty. `line` is the line number in its file, from 1, or that of the row;
    `origin` is what an error says before that number, such as `data.jsonl, line`. `label_name` is the class's name where the data
    name it; it becomes a number in `label` when the model is known. `inputs` is what the model is given, where the source holds that
    already instead of an image, a sound or a text. `mask` says of each of the image's pixels which class it is.
    """

    line: int
    image: Path | Media | None = None
    audio: Path | Media | None = None
    text: str | None = None
    label: int | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    target: str | None = None
    group: str | None = None
    split: str = ""
    origin: str = field(default="line", compare=False, repr=False)
    label_name: str | None = None
    inputs: TensorInputs | None = None
    mask: Path | Media | None = None
    signals: Mapping[str, Path | Media] = field(default_factory=dict)

    @property
    def modalities(self) -> frozenset[str]:
        """The modalities this sample holds; each signal is one, by its field."""
        return frozenset([m for m in MODALITIES if getattr(self, m) is not None]).union(self.signals)

    @property
    def where(self) -> str:
        """Where it stands, for errors: `data.jsonl, line 3`."""
        return f"{self.origin} {self.line}"

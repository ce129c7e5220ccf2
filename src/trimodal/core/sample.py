"""One line of a data file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODALITIES = ("image", "audio", "text")
TOKEN_KINDS = (*MODALITIES, "fusion", "answer")
"""What a token can be: of a modality, of the fusion stream's own, or of the answer that a decoder is to give."""


@dataclass(frozen=True)
class Sample:
    """One line of a data file: any of image, audio (paths) and text, and what the task needs.

    `label` is the class of the whole sample, `labels` further classes by name (`image`: the digit shown),
    `target` the text a decoder is to produce. Samples of one `group` are never split between calibration and
    verification. `split` is `train`, `test` or empty. `line` is the line number in its file, from 1.
    """

    line: int
    image: Path | None = None
    audio: Path | None = None
    text: str | None = None
    label: int | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    target: str | None = None
    group: str | None = None
    split: str = ""

    @property
    def modalities(self) -> frozenset[str]:
        """The modalities this sample holds."""
        return frozenset(m for m in MODALITIES if getattr(self, m) is not None)

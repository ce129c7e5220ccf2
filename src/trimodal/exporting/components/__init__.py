"""Which files a model becomes: one line a family that is more than one file; everything else is one called `model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trimodal.exporting.component import Component
from trimodal.exporting.components.decoder import split_decoder
from trimodal.exporting.components.dual_encoder import split_dual_encoder
from trimodal.exporting.components.llava import split_llava
from trimodal.exporting.components.multimodal import take_streams
from trimodal.exporting.components.whisper import split_whisper
from trimodal.exporting.components.whole import take_whole
from trimodal.models.model import Model

COMPONENTS: Mapping[str, Callable[[Model], Sequence[Component]]] = {
    "clip": split_dual_encoder,
    "siglip": split_dual_encoder,
    "clap": split_dual_encoder,
    "llama": split_decoder,
    "llava": split_llava,
    "multimodal": take_streams,
    "whisper": split_whisper,
}


def split_components(model: Model) -> tuple[Component, ...]:
    """The components of `model`, by its family.

    Raises:
        ModelError: nobody can say what its inputs look like.
    """
    return tuple(COMPONENTS.get(model.family.name, take_whole)(model))

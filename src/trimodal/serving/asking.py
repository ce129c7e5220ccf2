"""How a model is asked: samples into tensors, outputs into answers, by its family and its folder's processors. Holds no weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from torch import nn

from trimodal.errors import InputError
from trimodal.formats.plain_config import strip_config
from trimodal.loading.load import build_meta_model, find_model_class, read_config
from trimodal.models.families import family_of
from trimodal.models.files import OURS, SINGLE
from trimodal.models.model import Family, LoadedSample, Output, Processors
from trimodal.models.processors import find_processors
from trimodal.serving.refusals import RefusedError, refuse_bad
from trimodal.serving.requests import Item

Arrays = Mapping[str, NDArray[Any]]
_FILLING = {"text": "a"}
_SIDE, _RATE = 8, 16_000
TAKEN_ALONE = {"text_model": ("text",), "vision_model": ("image",), "audio_model": ("audio",)}
"""What a dual encoder's components take."""
_USUAL_SCALE = 100.0  # where CLIP's training caps it


@dataclass(frozen=True)
class Asking:
    """The architecture without values, what its family says of it, and the processors."""

    module: nn.Module
    family: Family
    processors: Processors
    outputs: tuple[Output, ...]
    modalities: tuple[str, ...]
    folder: Path

    @property
    def config(self) -> Any:
        """The module's configuration."""
        return self.module.config

    @property
    def generates(self) -> bool:
        """Whether the class says texts."""
        able = getattr(self.module, "can_generate", None)
        return bool(able is not None and able())

    def modalities_of(self, component: str) -> tuple[str, ...]:
        """The modalities whose inputs the component takes."""
        alone = TAKEN_ALONE.get(component, ())
        return alone if alone and alone[0] in self.modalities else self.modalities

    def encode(self, loaded: LoadedSample, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
        """One sample as the arrays (1, …) that its processors make. What is not `wanted` is filled in, as some families encode all or
        nothing; what then comes of it, nobody reads.

        Raises:
            RefusedError: 400, a modality is missing, or the processors do not take the sample.
        """
        lacking = [m for m in wanted if getattr(loaded, m) is None]
        if lacking and self.family.name != "multimodal":
            raise refuse_bad(f"this model needs {' and '.join(wanted)}; missing: {' and '.join(lacking)}")
        if len(lacking) == len(wanted):
            raise refuse_bad(f"this model takes any of {', '.join(wanted)}; none was given")
        filled = [m for m in self.modalities if m not in wanted and getattr(loaded, m) is None]
        try:
            found = self.family.encode(self.module, self.processors, [_fill_in(loaded, filled)])
        except InputError as refused:
            raise refuse_bad(str(refused)) from refused
        except (ValueError, TypeError, RuntimeError, IndexError, ArithmeticError) as failed:  # processors have no errors of their own
            raise refuse_bad(
                "the model's processor does not take this sample: too small, too short, of another kind, or its text has marks of its own "
                "for images or sounds"
            ) from failed
        return {name: value.numpy() for name, value in found.items()}

    def list_labels(self, count: int | None = None) -> tuple[str, ...]:
        """The names of the classes by number; numbers where the configuration names none, or another number of them."""
        named = getattr(self.config, "id2label", None) or {}
        if count is not None and len(named) != count:
            return tuple(str(number) for number in range(count))
        return tuple(str(named[number]) for number in sorted(named))


def read_asking(folder: Path) -> Asking:
    """How the model in `folder` is asked.

    Raises:
        ModelError: it has no configuration that Transformers or a family knows.
    """
    config = strip_config(read_config(folder))
    module = build_meta_model(config, find_model_class(config, folder))
    family = family_of(module)
    return Asking(module, family, find_processors(folder), family.outputs(module), family.modalities(module), folder)


def read_scale(folder: Path) -> tuple[float, float]:
    """What cosines are multiplied by, and what is added, before they are probabilities: the model's `logit_scale` and `logit_bias`."""
    found = {"logit_scale": math.log(_USUAL_SCALE), "logit_bias": 0.0}
    for file in (folder / OURS, folder / SINGLE):
        if file.is_file():
            with safe_open(file, framework="np") as opened:
                for name in opened.keys():  # noqa: SIM118
                    if (last := name.rpartition(".")[2]) in found and not opened.get_slice(name).get_shape()[1:]:
                        found[last] = float(np.ravel(opened.get_tensor(name))[0])
    return math.exp(found["logit_scale"]), found["logit_bias"]


def _fill_in(loaded: LoadedSample, modalities: Sequence[str]) -> LoadedSample:
    return LoadedSample(
        image=Image.new("RGB", (_SIDE, _SIDE)) if "image" in modalities else loaded.image,
        audio=np.zeros(_RATE, np.float32) if "audio" in modalities else loaded.audio,
        sampling_rate=_RATE if "audio" in modalities else loaded.sampling_rate,
        text=_FILLING["text"] if "text" in modalities else loaded.text,
    )


def check_taken(item: Item, modalities: Sequence[str]) -> None:
    """Refuse what the model does not take.

    Raises:
        RefusedError: 400, it holds another modality.
    """
    extra = [m for m in item.modalities if m not in modalities]
    if extra:
        raise RefusedError(400, f"this model takes {', '.join(modalities)}, not {', '.join(extra)}", field=extra[0])



"""What a loaded model is, and what a family must say about its kind of model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.core.model_edit import ModelEdit
from trimodal.models.boxes import join_boxes
from trimodal.models.foreign import run_foreign

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from transformers import PreTrainedModel

Batch = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Output:
    """One tensor of a model's output that a person cares about.

    `field` is its name in the model's output (`image_embeds`; the first element for plain tensors is `output`).
    `logits` are class scores (batch, classes), to be compared with `label`, a path into the sample (`label`,
    `labels.image`); `tokens` are scores (batch, tokens, vocabulary), which a map (batch, classes, height, width) becomes
    too; `embedding` is a vector per sample, pooled over the token dimension with the mask called `mask` in the batch if
    `pool` says so; `boxes` are what a detector found, with the field `scores` (`models/boxes.py`), whose last class is
    nothing if there is a `blank`. `rows` says what the tokens are if they are no words: `pixel`, `query`.
    """

    field: str
    modality: str
    kind: Literal["logits", "tokens", "embedding", "boxes"]
    label: str = ""
    pool: Literal["", "mean", "first"] = ""
    mask: str = ""
    scores: str = ""
    blank: bool = False
    rows: str = ""

    def select_tensor(self, result: Any) -> Tensor | None:
        """Its tensor, of the shape that its kind has, in what a forward pass returned; None where that has none, as without the
        modality it is from."""
        found = self._find(result)
        if found is None:
            return None
        if self.kind == "boxes":
            scores = _get_field(result, self.scores)
            return join_boxes(found, scores, self.blank) if isinstance(scores, Tensor) else None
        return found.flatten(2).transpose(1, 2) if self.kind == "tokens" and found.dim() == 4 else found

    def select_map(self, result: Any) -> Tensor | None:
        """Its tensor as it is where that is a map (batch, classes, height, width); else None."""
        found = self._find(result)
        return found if found is not None and found.dim() == 4 else None

    def _find(self, result: Any) -> Tensor | None:
        """What a forward pass returned under the name."""
        found = _get_field(result, self.field)
        if isinstance(found, Tensor):
            return found
        return find_first_tensor(result) if self.field == "output" else None

    def is_one_number(self, value: Tensor) -> bool:
        """Whether `value` (batch, …) is one number per sample: the cosine of such knows no more than the sign, and the class that
        is ranked first is always the same."""
        return self.kind != "tokens" and value.numel() == (len(value) if value.dim() else 1)


def _get_field(result: Any, name: str) -> Any:
    """What a forward pass returned under `name`; None if nothing."""
    return result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)


def find_first_tensor(result: Any) -> Tensor | None:
    """The first tensor, of any shape, in what a forward pass returned: itself, or in its tuples, lists and mappings, however deep."""
    if isinstance(result, Tensor):
        return result
    parts = result.values() if isinstance(result, Mapping) else result if isinstance(result, (tuple, list)) else ()
    return next((found for part in parts if (found := find_first_tensor(part)) is not None), None)


@dataclass(frozen=True)
class LoadedSample:
    """One sample with its files read: a PIL image in RGB, a mono waveform in float32 at `sampling_rate` Hz, signals by field in float32,
    (steps, channels) or (features,). `where` is what an error says of it."""

    image: Image | None = None
    audio: np.ndarray | None = None
    sampling_rate: int = 0
    text: str | None = None
    target: str | None = None
    signals: Mapping[str, np.ndarray] = field(default_factory=dict)
    where: str = field(default="a sample", compare=False)


class Processors:
    """The model's own input processors, as far as its folder has them: `image`, `audio`, `text`, and `whole`, a combined
    processor where the family needs one (LLaVA's, our fused model's). None where there is none.

    They are given, or loaded by the functions `later` when they are first asked for: a model can be looked at and
    compressed without data where a package that a processor needs is missing. Asking raises what loading it raises.
    """

    def __init__(
        self,
        image: Any = None,
        audio: Any = None,
        text: Any = None,
        whole: Any = None,
        later: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        self._known = {"image": image, "audio": audio, "text": text, "whole": whole}
        self._later = dict(later or {})

    @property
    def image(self) -> Any:
        """From images to tensors."""
        return self._get_part("image")

    @property
    def audio(self) -> Any:
        """From waveforms to tensors."""
        return self._get_part("audio")

    @property
    def text(self) -> Any:
        """From text to tensors: the tokenizer."""
        return self._get_part("text")

    @property
    def whole(self) -> Any:
        """From all of them to tensors."""
        return self._get_part("whole")

    def _get_part(self, part: str) -> Any:
        if part in self._later:
            self._known[part] = self._later[part]()
            del self._later[part]
        return self._known[part]


@dataclass(frozen=True)
class Family:
    """One kind of model: what its parts are called and how to talk to it.

    Attributes:
        name: what people call it, such as `clip`.
        model_types: the `model_type` values of Hugging Face configs that it covers.
        describe: module -> Layout. Works on any device, `meta` included, and reads no weights.
        outputs: module -> the outputs that are compared before and after, those the module really has.
        modalities: module -> the modalities the module takes as input.
        encode: (module, processors, loaded samples) -> keyword arguments of the module's forward. A batch
            holds the modalities that all its samples have.
        tokens: (module, batch) -> for a tower's name (or `tower.cross` for keys and values of its
            cross-attention) a LongTensor (batch, tokens): index into MODALITIES, -1 for padding. Towers left
            out count every token for their own modality.
        example: module -> keyword arguments of its forward for one sample of the usual size, all zeros, on the
            module's device; empty if nobody can say. For counting operations.
        classes: of models that Transformers has not, whose configurations are registered with it (`AutoConfig.register`): what a
            folder's `architectures` may name. A folder's own code is never run, an installed package's is.
        fits: module -> whether the family knows the parts of this one; of a model type that it covers another may be made of.
        declares_axes: whether `describe` says which dimensions are cut together. Where it does not, the module is watched
            while it runs, see `graph/layout.py`.
    """

    name: str
    model_types: tuple[str, ...]
    describe: Callable[[nn.Module], Layout]
    outputs: Callable[[nn.Module], tuple[Output, ...]]
    modalities: Callable[[nn.Module], tuple[str, ...]]
    encode: Callable[[nn.Module, Processors, Sequence[LoadedSample]], dict[str, Tensor]]
    tokens: Callable[[nn.Module, Batch], dict[str, Tensor]] = field(default=lambda module, batch: {})
    example: Callable[[nn.Module], dict[str, Tensor]] = field(default=lambda module: {})
    declares_axes: bool = True
    classes: tuple[type[PreTrainedModel], ...] = ()
    fits: Callable[[nn.Module], bool] = field(default=lambda module: True)


@dataclass
class Model:
    """A module with its layout. `folder` holds the configuration and processor files; None for a module that
    came from a function. `steps` is what was done to it since it was the bare architecture,
    one record of `edits/` each. `unused` are the tensors of the checkpoint that the module does not take, with
    their bytes."""

    module: nn.Module
    layout: Layout
    family: Family
    name: str
    folder: Path | None = None
    processors: Processors = field(default_factory=Processors)
    steps: list[ModelEdit] = field(default_factory=list)
    unused: Mapping[str, int] = field(default_factory=dict)

    def example(self) -> dict[str, Any]:
        """Keyword arguments of the module's forward for one sample, all zeros; empty if nobody can say.

        Raises:
            ModelError: whoever could say failed.
        """
        what = f"the example of one sample for {type(self.module).__name__}"
        return run_foreign(what, lambda: self.family.example(self.module))

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities the module takes as input."""
        return self.family.modalities(self.module)


def device_of(module: nn.Module) -> torch.device:
    """Where the module's tensors are: that of its first parameter, else of its first buffer, else the CPU."""
    first = next((tensor for tensors in (module.parameters(), module.buffers()) for tensor in tensors), None)
    return torch.device("cpu") if first is None else first.device

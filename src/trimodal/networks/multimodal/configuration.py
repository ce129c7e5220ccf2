"""Which streams a multimodal model takes, what their towers are, and how they are fused."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

FUSIONS = ("early", "late", "hybrid", "layerwise")
STREAM_KINDS = ("image", "audio", "text", "signal")
TASKS = ("classify", "regress", "retrieve")
JOININGS = ("gated", "concat")

_INPUTS = {"image": "pixel_values", "text": "input_ids", "audio": "input_features"}
_MASKS = {"image": "pixel_mask", "text": "attention_mask", "audio": "audio_mask"}
_WAVEFORMS = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio", "audio-spectrogram-transformer")
_TAKEN = {*_INPUTS.values(), *_MASKS.values(), "input_values", "labels", "targets", "return_loss", "return_dict", "loss", "fusion"}


@dataclass(frozen=True)
class Stream:
    """One stream of inputs, such as a front camera: what it is of, and the tower that reads it.

    `tower` is the configuration of a Transformers encoder, as its `to_dict()` gives it. Without one the tower is our own: patches of
    `patch` (a side in pixels, a number of frames or of steps; 1 for words), a position for each, `blocks` blocks of `width` channels. Then
    `channels` are those of an image, the mels of a sound, the channels of a signal, or the words that a text's tokenizer knows; `length`
    is the side of an image in pixels, and the most frames, steps or tokens of the others. `mean` and `std`, one number per channel of a
    signal, are what it is standardised by. `frozen` towers are not trained.
    """

    name: str
    modality: str
    tower: Mapping[str, Any] | None = None
    channels: int = 3
    length: int = 32
    patch: int = 1
    width: int = 64
    blocks: int = 2
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    frozen: bool = False

    @property
    def input_name(self) -> str:
        """The argument of forward that it is given by: Transformers' own for streams called `image`, `audio` and `text`, else its name."""
        if self.name == "audio" and (self.tower or {}).get("model_type") in _WAVEFORMS:
            return "input_values"
        return _INPUTS.get(self.name, self.name)

    @property
    def mask_name(self) -> str:
        """The argument that says which frames, steps or words of a sample are real."""
        return _MASKS.get(self.name, f"{self.name}_mask")

    @property
    def present_name(self) -> str:
        """The argument that says which samples of a batch have the stream."""
        return f"{self.name}_present"

    @property
    def tokens(self) -> int:
        """The most tokens of a tower of our own."""
        along = -(-self.length // self.patch)
        return along * along if self.modality == "image" else along

    @classmethod
    def read(cls, name: str, given: Any) -> Stream:
        """The stream that a configuration tells of.

        Raises:
            ValueError: it is not what a stream can be; the message names the field to change.
        """
        if not isinstance(given, Mapping):
            raise ValueError(f"streams.{name} is {given!r:.60}, expected a mapping with a modality")
        known = {field.name for field in fields(cls)} - {"name"}
        unknown = [key for key in given if key not in known]
        if unknown:
            raise ValueError(f"streams.{name} has the field {unknown[0]!r}, expected some of {', '.join(sorted(known))}")
        values: dict[str, Any] = {key: tuple(value) if key in ("mean", "std") else value for key, value in given.items()}
        _check_stream_name(name)
        return cls(name, values.pop("modality", ""), **values)._check()

    def _check(self) -> Stream:
        if self.modality not in STREAM_KINDS:
            raise ValueError(f"streams.{self.name}.modality is {self.modality!r}, expected one of {', '.join(STREAM_KINDS)}")
        if self.tower is not None and "model_type" not in self.tower:
            raise ValueError(f"streams.{self.name}.tower names no model_type; give the to_dict() of a Transformers configuration")
        for name in ("channels", "length", "patch", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"streams.{self.name}.{name} is {getattr(self, name)}, expected at least 1")
        for name in ("mean", "std"):
            given = getattr(self, name)
            if given and (self.modality != "signal" or len(given) != self.channels or (name == "std" and min(given) <= 0)):
                raise ValueError(f"streams.{self.name}.{name} has {len(given)} numbers; expected one per channel of a signal, of std > 0")
        if self.modality == "text" and self.patch != 1:
            raise ValueError(f"streams.{self.name}.patch is {self.patch}; every word of a text is a token, so it is 1")
        if self.modality == "image" and self.length % self.patch:
            raise ValueError(f"streams.{self.name}.length is {self.length}, expected a multiple of the patch {self.patch}")
        return self

    def to_config(self) -> dict[str, Any]:
        """What `read` takes, without what is as it is by default."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "name"}
        default = Stream("", "")
        kept = {key: list(value) if isinstance(value, tuple) else value for key, value in found.items() if value != getattr(default, key)}
        return {"name": self.name, "modality": self.modality, **kept}


def _read_streams(given: Any) -> list[Stream]:
    """Streams of a list of mappings with names, or of a mapping by name. They are kept as a list: JSON does not keep the order of names.

    Raises:
        ValueError: one is no stream, or two have one name.
    """
    pairs = [*given.items()] if isinstance(given, Mapping) else [(str(one.get("name", "")), one) for one in given or ()]
    names = [name for name, _ in pairs]
    if len({*names}) < len(names):
        raise ValueError(f"streams has two of one name: {', '.join(names)}")
    return [Stream.read(name, {key: value for key, value in one.items() if key != "name"}) for name, one in pairs]


def _check_stream_name(name: str) -> None:
    taken = name in _TAKEN or keyword.iskeyword(name) or name.startswith(("_", "fusion")) or hasattr(nn.ModuleDict(), name)
    if taken or not name.isidentifier():
        raise ValueError(f"a stream is called {name!r}; expected a name such as front_camera, which Python, torch and forward do not use")


class MultimodalConfig(PreTrainedConfig):  # type: ignore[no-untyped-call, unused-ignore]
    """Configuration of `MultimodalModel`.

    `streams` are given as mappings by name, see `Stream`, and kept as a list with names. `fusion` says where they meet: ``early`` (one
    encoder over the tokens of all), ``late`` (pooled towers, joined by `joining`: ``gated``, a weight for each that adds up to one over
    those that are there, or ``concat``), ``hybrid`` (of `fusion_blocks` the first `cross_blocks`, half of them by default, have each stream
    look at the others, the rest at everything), or ``layerwise`` (every stream has `fusion_blocks` blocks of its own; at the depths in
    `exchange_at`, all from the middle on by default, they pass `bottleneck_tokens` tokens around). The fusion has `fusion_width`
    channels in heads of `head_dim`.

    `tasks` are any of ``classify`` (`num_labels` classes, and further ones in `label_sets` by name, whose losses count `label_set_weight`
    times), ``regress`` (`regression_targets` numbers), and ``retrieve`` (the two streams in `contrast` are told by each other, which needs
    late fusion).
    """

    model_type = "trimodal_multimodal"

    streams: list[dict[str, Any]] | dict[str, Any] | None = None
    fusion: str = "hybrid"
    fusion_width: int = 128
    fusion_blocks: int = 4
    cross_blocks: int | None = None
    bottleneck_tokens: int = 4
    exchange_at: list[int] | None = None
    joining: str = "gated"
    head_dim: int = 16
    mlp_ratio: int = 4
    norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    tasks: list[str] | None = None
    label_sets: dict[str, int] | None = None
    label_set_weight: float = 0.3
    regression_targets: int = 1
    contrast: list[str] | None = None
    logit_scale_init: float = 2.6592

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the shape; the messages name the field to change."""
        self.streams = [stream.to_config() for stream in _read_streams(self.streams)]
        self.tasks = list(self.tasks if self.tasks is not None else ["retrieve" if self.contrast else "classify"])
        self.label_sets, self.contrast = dict(self.label_sets or {}), list(self.contrast or [])
        self.cross_blocks = self.fusion_blocks // 2 if self.cross_blocks is None else self.cross_blocks
        middle = range(self.fusion_blocks // 2, self.fusion_blocks)
        self.exchange_at = list(middle if self.exchange_at is None else self.exchange_at)
        self._check_choices()
        self._check_sizes()
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call, unused-ignore]

    def list_streams(self) -> list[Stream]:
        """The streams in order."""
        return _read_streams(self.streams)

    def _check_choices(self) -> None:
        for name, value, known in (("fusion", self.fusion, FUSIONS), ("joining", self.joining, JOININGS)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}.")
        for task in self.tasks or ():
            if task not in TASKS:
                raise ValueError(f"tasks has {task!r}, expected some of {', '.join(TASKS)}.")
        if "retrieve" in (self.tasks or ()):
            if self.fusion != "late":
                raise ValueError(f"tasks has retrieve and fusion is {self.fusion!r}; streams are compared before they meet: late.")
            if self.contrast is None or len(self.contrast) != 2 or not {*self.contrast} <= {s.name for s in self.list_streams()}:
                raise ValueError(f"contrast is {self.contrast}, expected the names of two streams.")

    def _check_sizes(self) -> None:
        widths = {"fusion_width": self.fusion_width}
        widths |= {f"streams.{s.name}.width": s.width for s in self.list_streams() if s.tower is None}
        for name, width in widths.items():
            if width % self.head_dim:
                raise ValueError(f"{name} is {width}, expected a multiple of head_dim {self.head_dim}.")
        if any(not 0 <= depth < max(self.fusion_blocks, 1) for depth in self.exchange_at or ()):
            raise ValueError(f"exchange_at is {self.exchange_at}, expected depths from 0 to {self.fusion_blocks - 1}.")
        if not 0 <= (self.cross_blocks or 0) <= self.fusion_blocks:
            raise ValueError(f"cross_blocks is {self.cross_blocks}, expected at most the {self.fusion_blocks} fusion_blocks.")

"""The towers of a multimodal model: an encoder of Transformers, or a small one of our own for any kind of stream.

B is the batch, T tokens, D the width of a tower. A tower takes a stream's input and the mask of what of it is real, (B, frames, steps or
words), and gives tokens (B, T, D) with the mask of those that are real, (B, T) bool. What is not real is never looked at, whatever its
values are. The Auto classes are looked up when they are used: while they are being imported, this file may be too.
"""

from __future__ import annotations

from inspect import signature
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from trimodal.networks.fusion.modeling import Block
from trimodal.networks.multimodal.configuration import MultimodalConfig, Stream

_INNER = {"image": "vision_model", "text": "text_model", "audio": "audio_model"}
_WIDTHS = ("hidden_size", "d_model", "hidden_dim", "embed_dim")
_HALVED = ("whisper", "speech_to_text")  # two frames become one token


class StreamBlock(Block):
    """A pre-norm block whose activations can be computed anew in the backward pass, as `gradient_checkpointing_enable` of the model says.
    (Transformers' layer for that cannot be imported here: its file imports the Auto classes.)"""

    gradient_checkpointing = False
    _gradient_checkpointing_func: Any = None

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) and an optional mask (B, T) -> (B, T, D)."""
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(super().forward, hidden, mask)  # type: ignore[no-any-return]
        return super().forward(hidden, mask)


class OwnTower(nn.Module):
    """A stem, positions and blocks: patches of an image, frames of a sound, steps of a signal, or words."""

    def __init__(self, stream: Stream, config: MultimodalConfig) -> None:
        super().__init__()
        self.stream = stream
        self.stem = _make_stem(stream)
        self.position = nn.Embedding(stream.tokens, stream.width)
        self.blocks = make_blocks(stream.width, stream.blocks, config)
        self.norm = nn.LayerNorm(stream.width, eps=config.norm_epsilon)

    @property
    def width(self) -> int:
        """Channels of its tokens."""
        return int(self.stream.width)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and the mask of what is real -> tokens (B, T, D) and their mask (B, T).

        Raises:
            ValueError: the input has another shape than the stream, or is longer.
        """
        real = self.mask_tokens(inputs, mask)
        hidden = self.embed_inputs(inputs, mask)
        tokens = hidden.shape[1]
        if tokens > self.stream.tokens:
            raise ValueError(f"{self.stream.input_name} makes {tokens} tokens, and this stream takes {self.stream.tokens}; shorten it.")
        hidden = hidden + self.position(torch.arange(tokens, device=hidden.device))
        for block in self.blocks:
            hidden = block(hidden, open_empty_rows(real))
        return self.norm(hidden), real

    def embed_inputs(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Patches or words as vectors (B, T, D); of frames and steps that are not real, zeros are taken."""
        if self.stream.modality == "text":
            return self.stem(inputs)  # type: ignore[no-any-return]
        if self.stream.modality == "image":
            return self.stem(inputs).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
        values = inputs if self.stream.modality == "audio" else self.shape_signal(inputs)
        if mask is not None:
            values = torch.where(mask.bool()[:, None, :], values, 0.0)
        return self.stem(F.pad(values, (0, -values.shape[-1] % self.stream.patch))).transpose(1, 2)  # type: ignore[no-any-return]

    def mask_tokens(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Which tokens (B, T) are real: those of which anything is."""
        kind, patch = self.stream.modality, self.stream.patch
        if kind == "image":
            tokens = (inputs.shape[-2] // patch) * (inputs.shape[-1] // patch)
            return torch.ones(inputs.shape[0], tokens, dtype=torch.bool, device=inputs.device)
        length = inputs.shape[1] if kind == "text" else inputs.shape[-1] if kind == "audio" else self.count_steps(inputs)
        real = torch.ones(inputs.shape[0], length, dtype=torch.bool, device=inputs.device) if mask is None else mask.bool()
        return real if patch == 1 else F.pad(real, (0, -length % patch)).unflatten(1, (-1, patch)).any(dim=2)

    def count_steps(self, inputs: Tensor) -> int:
        """How many steps a signal (B, steps, channels) or (B, features) has."""
        return inputs.shape[1] if inputs.dim() == 3 or self.stream.channels == 1 else 1

    def shape_signal(self, inputs: Tensor) -> Tensor:
        """(B, steps, channels), or one row of numbers (B, features), -> standardised (B, channels, steps).

        Of features each is a channel of one step, or where the stream has one channel a step of its own.

        Raises:
            ValueError: there are not as many channels as the stream has.
        """
        channels = self.stream.channels
        values = inputs if inputs.dim() == 3 else inputs[:, :, None] if channels == 1 else inputs[:, None, :]
        if values.dim() != 3 or values.shape[2] != channels:
            raise ValueError(
                f"{self.stream.input_name} has the shape {tuple(inputs.shape)}; expected (batch, steps, {channels}) or (batch, features)"
            )
        if self.stream.mean:
            values = values - values.new_tensor(self.stream.mean)
        if self.stream.std:
            values = values / values.new_tensor(self.stream.std)
        return values.transpose(1, 2)


class TransformersTower(nn.Module):
    """An encoder of Transformers, which gives the states of its tokens, or of the places of its last map."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        given = {key: value for key, value in dict(stream.tower or {}).items() if key not in ("dtype", "torch_dtype")}
        config = transformers.AutoConfig.for_model(**given)  # type: ignore[no-untyped-call, unused-ignore]
        self.stream = stream
        self._counts: dict[tuple[int, ...], int] = {}
        self.encoder = take_encoder(transformers.AutoModel.from_config(config), stream.modality)

    @property
    def width(self) -> int:
        """Channels of its tokens."""
        return find_encoder_width(self.encoder)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Inputs as the encoder takes them and the mask of what is real -> tokens (B, T, D) and their mask (B, T)."""
        options: dict[str, Any] = {}
        if mask is not None and self.stream.modality != "image" and "attention_mask" in signature(self.encoder.forward).parameters:
            options["attention_mask"] = open_empty_rows(mask.bool()).to(mask.dtype if mask.dtype != torch.bool else torch.long)
        found = self.encoder(**{self.encoder.main_input_name: inputs}, **options).last_hidden_state
        hidden = found.flatten(2).transpose(1, 2) if found.dim() == 4 else found
        return hidden, self.mask_tokens(inputs, mask, hidden.shape[1])

    def mask_tokens(self, inputs: Tensor, mask: Tensor | None = None, tokens: int | None = None) -> Tensor:
        """Which of its `tokens` (B, T) are real, of a mask (B, frames or words); all where tokens do not follow each other in time.
        Without their number it is found by running one blank sample, once for each shape."""
        count = self.count_tokens(inputs) if tokens is None else tokens
        every = torch.ones(inputs.shape[0], count, dtype=torch.bool, device=inputs.device)
        if mask is None or self.stream.modality == "image":
            return every
        if mask.shape == every.shape:
            return mask.bool()
        shorten: Any = getattr(self.encoder, "_get_feature_vector_attention_mask", None)
        if shorten is not None:
            return cast("Tensor", shorten(count, mask)).bool()
        return mask.bool()[:, ::2] if self.encoder.config.model_type in _HALVED else every


    @torch.no_grad()
    def count_tokens(self, inputs: Tensor) -> int:
        """How many tokens it makes of each of the samples in `inputs` (B, …)."""
        shape = tuple(inputs.shape[1:])
        if shape not in self._counts:
            self._counts[shape] = self(torch.zeros_like(inputs[:1]))[0].shape[1]
        return self._counts[shape]


def make_blocks(width: int, count: int, config: MultimodalConfig) -> nn.ModuleList:
    """So many blocks of `width` channels."""
    return nn.ModuleList(StreamBlock(width, cast("Any", config)) for _ in range(count))


def make_tower(stream: Stream, config: MultimodalConfig) -> OwnTower | TransformersTower:
    """The tower of `stream`."""
    return OwnTower(stream, config) if stream.tower is None else TransformersTower(stream)


def take_encoder(model: PreTrainedModel, modality: str) -> Any:
    """The part of `model` that reads `modality`: the encoder of an encoder-decoder, a tower of a dual encoder, or all of it. A pooler that
    nobody will read is left out."""
    part: Any = model
    if getattr(model.config, "is_encoder_decoder", False):
        part = model.get_encoder()
    elif hasattr(model, _INNER.get(modality, "")):
        part = getattr(model, _INNER[modality])
    if "add_pooling_layer" in signature(type(part)).parameters:
        part.pooler = None
    return part


def find_encoder_width(encoder: PreTrainedModel) -> int:
    """How many channels its last states have.

    Raises:
        ValueError: its configuration does not say.
    """
    config: Any = encoder.config
    found = next((value for name in _WIDTHS if isinstance(value := getattr(config, name, None), int)), None)
    sizes: Any = getattr(config, "hidden_sizes", None)
    if found is None and not sizes:
        raise ValueError(f"the configuration of {type(encoder).__name__} does not say how wide its states are, so it can be no tower")
    return int(sizes[-1] if found is None else found)


def open_empty_rows(mask: Tensor) -> Tensor:
    """A mask (B, T) in which rows without any token are all open: they have to be computed, and nobody looks at what comes of them."""
    return mask | ~mask.any(dim=1, keepdim=True)


def _make_stem(stream: Stream) -> nn.Module:
    if stream.modality == "text":
        return nn.Embedding(stream.channels, stream.width)
    if stream.modality == "image":
        return nn.Conv2d(stream.channels, stream.width, stream.patch, stride=stream.patch)
    return nn.Conv1d(stream.channels, stream.width, stream.patch, stride=stream.patch)

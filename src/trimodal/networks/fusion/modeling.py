"""A fused model of image, audio and text: three pre-norm Transformer towers and a joint encoder.

Shapes use B for the batch, T for tokens, D for the width of a stream. Masks are boolean, True where a token
is real.

The stream of the joint encoder is, in this order: one class token, the image's tokens, the audio's, the
text's. Every linear map is a plain ``nn.Linear`` of its own, and a block reads its number of heads from the
shape of its tensors, so that heads, hidden units, whole blocks and whole streams can be cut by slicing
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import ModelOutput

from trimodal.networks.fusion.configuration import FusionConfig

IMAGE, AUDIO, TEXT, CLASS, PADDING = 0, 1, 2, 3, -1
MODALITIES = ("image", "audio", "text")
AUDIO_STRIDE = 8  # frames per audio token: three convolutions of stride 2
INPUT_NAMES = {"image": "pixel_values", "audio": "input_features", "text": "input_ids"}


@dataclass
class FusionOutput(ModelOutput):
    """What the model says; a field is None where its modality was not given.

    `loss` is a scalar; `logits` (B, answers); `image_logits`, `audio_logits`, `text_logits` (B, classes of
    the tower).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    image_logits: Tensor | None = None
    audio_logits: Tensor | None = None
    text_logits: Tensor | None = None


class SelfAttention(nn.Module):
    """Self-attention with one linear map each for query, key, value and output; any number of heads."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) and an optional mask (B, T) -> (B, T, D).

        A mask (B, 1, 1, T) of numbers is added to the logits.
        """
        query, key, value = (
            self.split_heads(self.query(hidden)),
            self.split_heads(self.key(hidden)),
            self.split_heads(self.value(hidden)),
        )
        allowed = mask[:, None, None, :] if mask is not None and mask.dim() == 2 else mask  # no token looks at padding
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def split_heads(self, flat: Tensor) -> Tensor:
        """(B, T, heads * head_dim) -> (B, heads, T, head_dim)."""
        return flat.view(flat.shape[0], flat.shape[1], -1, self.head_dim).transpose(1, 2)


class Perceptron(nn.Module):
    """Two linear maps with a GELU between: (..., D) -> (..., D)."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden_width)
        self.down = nn.Linear(hidden_width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.down(F.gelu(self.up(hidden)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One pre-norm Transformer block."""

    def __init__(self, width: int, config: FusionConfig) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.attention = SelfAttention(width, config.head_dim)
        self.norm_2 = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.mlp = Perceptron(width, config.mlp_ratio * width)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) and an optional mask (B, T) -> (B, T, D)."""
        hidden = hidden + self.attention(self.norm_1(hidden), mask)
        return hidden + self.mlp(self.norm_2(hidden))  # type: ignore[no-any-return]


class ImageStem(nn.Module):
    """Three convolutions: (B, channels, S, S) -> (B, (S / 4)^2, D)."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        width = config.image_width
        self.conv_1 = nn.Conv2d(config.image_channels, width // 4, 3, padding=1)
        self.conv_2 = nn.Conv2d(width // 4, width // 2, 3, stride=2, padding=1)
        self.conv_3 = nn.Conv2d(width // 2, width, 3, stride=2, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, channels, S, S) -> (B, T, D)."""
        hidden = F.gelu(self.conv_2(F.gelu(self.conv_1(pixels))))
        return self.conv_3(hidden).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class AudioStem(nn.Module):
    """Three convolutions over time: (B, mels, frames) -> (B, frames / 8, D)."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        width = config.audio_width
        self.conv_1 = nn.Conv1d(config.audio_mels, width, 3, stride=2, padding=1)
        self.conv_2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.conv_3 = nn.Conv1d(width, width, 3, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, mels, frames) -> (B, T, D)."""
        hidden = F.gelu(self.conv_2(F.gelu(self.conv_1(features))))
        return self.conv_3(hidden).transpose(1, 2)  # type: ignore[no-any-return]


class ModalityTower(nn.Module):
    """A stem, positions, blocks and a head of its own, for one modality."""

    def __init__(self, name: str, stem: nn.Module, tokens: int, config: FusionConfig) -> None:
        super().__init__()
        width = getattr(config, f"{name}_width")
        blocks = 0 if config.fusion == "early" else getattr(config, f"{name}_blocks")
        self.stem = stem
        self.position = nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(Block(width, config) for _ in range(blocks))
        self.norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.head = nn.Linear(width, getattr(config, f"{name}_labels"))

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Raw inputs and an optional mask over tokens (B, T) -> normalised tokens (B, T, D)."""
        hidden = self.stem(inputs)
        tokens, longest = hidden.shape[1], self.position.num_embeddings
        if tokens > longest:
            raise ValueError(f"The input makes {tokens} tokens, this tower takes {longest}; shorten the input.")
        hidden = hidden + self.position.weight[:tokens]
        for block in self.blocks:
            hidden = block(hidden, mask)
        return self.norm(hidden)  # type: ignore[no-any-return]

    def classify_tokens(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, T, D) -> logits of the tower's own head (B, classes)."""
        return self.head(pool_tokens(hidden, mask))  # type: ignore[no-any-return]


class JointFusion(nn.Module):
    """The fusion: one encoder over a class token and all modalities' tokens."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        width = config.fusion_width
        self.projectors = make_projectors(config, width)
        self.kind = nn.Embedding(4, width)  # what a token is; row 3 is the class token itself
        self.blocks = nn.ModuleList(Block(width, config) for _ in range(config.fusion_blocks))
        self.norm = nn.LayerNorm(width, eps=config.norm_epsilon)

    def forward(self, streams: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> Tensor:
        """Token streams {modality: (B, T, D)} and their masks -> one vector per sample (B, fusion D)."""
        batch = streams["image"].shape[0]
        parts = [self.kind.weight[CLASS].expand(batch, 1, -1)]
        for kind, name in enumerate(MODALITIES):
            parts.append(self.projectors[name](streams[name]) + self.kind.weight[kind])
        hidden = torch.cat(parts, dim=1)
        mask = join_masks(streams, masks)
        for block in self.blocks:
            hidden = block(hidden, mask)
        return self.norm(hidden[:, 0])  # type: ignore[no-any-return]


class LateFusion(nn.Module):
    """The fusion of ``late``: a residual perceptron over the sum of the projected, pooled towers."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        width = config.fusion_width
        self.projectors = make_projectors(config, width)
        self.blocks = nn.ModuleList()
        self.norm_2 = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.mlp = Perceptron(width, 2 * config.mlp_ratio * width)
        self.norm = nn.LayerNorm(width, eps=config.norm_epsilon)

    def forward(self, streams: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> Tensor:
        """Token streams {modality: (B, T, D)} and their masks -> one vector per sample (B, fusion D)."""
        pooled = [self.projectors[name](pool_tokens(streams[name], masks[name])) for name in MODALITIES]
        hidden = torch.stack(pooled).sum(dim=0)
        return self.norm(hidden + self.mlp(self.norm_2(hidden)))  # type: ignore[no-any-return]


def make_projectors(config: FusionConfig, width: int) -> nn.ModuleDict:
    """One linear map per modality, from the tower's width to the fusion's."""
    return nn.ModuleDict({name: nn.Linear(getattr(config, f"{name}_width"), width) for name in MODALITIES})


def pool_tokens(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the real tokens: (B, T, D) -> (B, D)."""
    if mask is None:
        return hidden.mean(dim=1)
    weight = mask.to(hidden.dtype)[:, :, None]
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)


def join_masks(streams: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> Tensor:
    """The boolean mask (B, 1 + all T) of the joint stream: class token, image, audio, text. Streams are (B, T, D), masks (B, T)."""
    first = streams["image"]
    parts = [torch.ones(first.shape[0], 1, dtype=torch.bool, device=first.device)]
    for name in MODALITIES:
        known = masks[name]
        shape, device = streams[name].shape[:2], streams[name].device
        parts.append(torch.ones(shape, dtype=torch.bool, device=device) if known is None else known)
    return torch.cat(parts, dim=1)


class FusionModel(PreTrainedModel):  # type: ignore[no-untyped-call, unused-ignore]
    """Answers a question about an image and a sound: three towers, a fusion and a classifier of answers."""

    config_class = FusionConfig
    base_model_prefix = "trimodal_fusion"
    main_input_name = "pixel_values"
    _no_split_modules = ["Block"]  # noqa: RUF012 (the name and kind are those of the base class)
    _supports_sdpa = True

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        words = nn.Embedding(config.vocabulary_size, config.text_width, padding_idx=config.pad_token_id)
        self.image = ModalityTower("image", ImageStem(config), (config.image_size // 4) ** 2, config)
        self.audio = ModalityTower("audio", AudioStem(config), -(-config.audio_frames // AUDIO_STRIDE), config)
        self.text = ModalityTower("text", words, config.text_tokens, config)
        self.fusion = LateFusion(config) if config.fusion == "late" else JointFusion(config)
        self.head = nn.Linear(config.fusion_width, int(config.num_labels or 0))
        self.post_init()  # type: ignore[no-untyped-call, unused-ignore]

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights, zero biases; convolutions keep a variance that survives their GELUs. Transformers' `init` leaves weights
        that were loaded from a file alone; `nn.init` would not."""
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            init.kaiming_normal_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    def make_token_masks(
        self, audio_mask: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> dict[str, Tensor | None]:
        """Masks over tokens from masks over frames (B, F) -> (B, ceil(F / 8)) and words (B, T) -> (B, T)."""
        audio = None if audio_mask is None else audio_mask[:, ::AUDIO_STRIDE].bool()
        return {
            "image": None,
            "audio": audio,
            "text": None if attention_mask is None else attention_mask.bool(),
        }

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        image_labels: Tensor | None = None,
        audio_labels: Tensor | None = None,
        text_labels: Tensor | None = None,
        **_: Any,
    ) -> FusionOutput:
        """Run what is given; the answer needs all three modalities, a tower's own head only its modality.

        `pixel_values` (B, channels, S, S) and `input_features` (B, mels, F) are floats; `audio_mask` (B, F),
        `input_ids` (B, T), `attention_mask` (B, T) and all labels (B,) are integers.
        """
        given = {"image": pixel_values, "audio": input_features, "text": input_ids}
        inputs = {name: value for name, value in given.items() if value is not None}
        if not inputs:
            raise ValueError("No input: give pixel_values, input_features or input_ids.")
        masks = self.make_token_masks(audio_mask, attention_mask)
        streams = {name: getattr(self, name)(value, masks[name]) for name, value in inputs.items()}
        logits = {name: getattr(self, name).classify_tokens(stream, masks[name]) for name, stream in streams.items()}
        answer = self.head(self.fusion(streams, masks)) if len(streams) == len(MODALITIES) else None
        wanted = {"answer": labels, "image": image_labels, "audio": audio_labels, "text": text_labels}
        return FusionOutput(
            loss=self.total_loss({"answer": answer, **logits}, wanted),
            logits=answer,
            image_logits=logits.get("image"),
            audio_logits=logits.get("audio"),
            text_logits=logits.get("text"),
        )

    def total_loss(self, logits: Mapping[str, Tensor | None], labels: Mapping[str, Tensor | None]) -> Tensor | None:
        """Cross-entropy of the answer plus the weighted ones of the towers, a scalar; None where no label is given. Logits (B,
        classes), labels int64 (B,).

        Raises:
            ValueError: a label is given without the inputs that it needs.
        """
        losses = []
        for name, label in labels.items():
            if label is None:
                continue
            score = logits.get(name)
            if score is None:
                raise ValueError(f"Labels were given for the {name}, but not the inputs that it needs.")
            weight = 1.0 if name == "answer" else self.config.tower_loss_weight
            losses.append(weight * F.cross_entropy(score, label))
        return torch.stack(losses).sum() if losses else None

    def fusion_layout(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What each token of the joint stream is, for one batch of model inputs: int64 (B, tokens).

        0 image, 1 audio, 2 text, 3 the class token, -1 padding. With ``late`` fusion there is no joint
        stream; the layout then has the three pooled vectors.
        """
        missing = [name for name in INPUT_NAMES.values() if name not in batch]
        if missing:
            raise ValueError(f"The joint stream needs all modalities; the batch lacks {', '.join(missing)}.")
        pixels, ids = batch["pixel_values"], batch["input_ids"]
        count, device = pixels.shape[0], pixels.device
        if self.config.fusion == "late":
            return torch.tensor([IMAGE, AUDIO, TEXT], device=device).expand(count, -1)
        masks = self.make_token_masks(batch.get("audio_mask"), batch.get("attention_mask"))
        image_tokens = (pixels.shape[-2] // 4) * (pixels.shape[-1] // 4)
        audio_tokens = -(-batch["input_features"].shape[-1] // AUDIO_STRIDE)
        parts = [torch.full((count, 1), CLASS, device=device)]
        for kind, (name, tokens) in enumerate(zip(MODALITIES, (image_tokens, audio_tokens, ids.shape[1]), strict=True)):
            layout = torch.full((count, tokens), kind, device=device)
            mask = masks[name]
            parts.append(layout if mask is None else layout.masked_fill(~mask, PADDING))
        return torch.cat(parts, dim=1)

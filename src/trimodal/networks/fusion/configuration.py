"""The shape of a fused model: three towers and the way their streams are joined."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

FUSIONS = ("hybrid", "late", "early")


class FusionConfig(PreTrainedConfig):  # type: ignore[no-untyped-call, unused-ignore]
    """Configuration of `FusionModel`.

    `fusion` says where the modalities meet: ``hybrid`` (each tower alone, then one encoder over all tokens),
    ``late`` (each tower alone and pooled, then one multilayer perceptron) or ``early`` (no tower blocks: one
    encoder over the tokens of the stems). `*_width` is the number of channels of a stream, `*_blocks` the
    number of Transformer blocks, `mlp_ratio` the hidden width of a block's perceptron over the stream's
    width. Every block starts with ``width / head_dim`` heads. `image_size` is in pixels, `audio_frames` and
    `mark_text_tokens` are the longest inputs. `num_labels` counts the answers, `*_labels` the classes of each
    tower's own head, whose losses count `tower_loss_weight` times the answer's.
    """

    model_type = "trimodal_fusion"

    fusion: str = "hybrid"
    image_size: int = 16
    image_channels: int = 1
    audio_mels: int = 40
    audio_frames: int = 100
    vocabulary_size: int = 128
    text_tokens: int = 32
    image_width: int = 128
    audio_width: int = 128
    text_width: int = 128
    fusion_width: int = 128
    image_blocks: int = 3
    audio_blocks: int = 3
    text_blocks: int = 2
    fusion_blocks: int = 4
    head_dim: int = 16
    mlp_ratio: int = 4
    norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    image_labels: int = 10
    audio_labels: int = 10
    text_labels: int = 5
    tower_loss_weight: float = 0.3
    pad_token_id: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the shape; the messages name the field to change."""
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion is {self.fusion!r}, expected one of {', '.join(FUSIONS)}.")
        if self.image_size % 4:
            raise ValueError(f"image_size is {self.image_size}, expected a multiple of 4 (the stem halves it twice).")
        for stream in ("image", "audio", "text", "fusion"):
            width = getattr(self, f"{stream}_width")
            if width % self.head_dim:
                raise ValueError(f"{stream}_width is {width}, expected a multiple of head_dim {self.head_dim}.")
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call, unused-ignore]

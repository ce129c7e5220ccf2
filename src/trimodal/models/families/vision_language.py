"""What models of a vision tower, a projector and a decoder say alike. Each part is declared once, with its own family, and found by
the `model_type` of its configuration; a pair of which one is unknown is of the generic family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.layers import find_unread_share
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, explain_fixed_width, root_of
from trimodal.models.families import clip, decoders, siglip
from trimodal.models.model import Batch, Output
from trimodal.models.parts import TowerPart

PLACEHOLDERS = "the text has one placeholder for every patch, so their number is fixed"
VISION: Mapping[str, Callable[[str], TowerPart]] = {
    "clip_vision_model": clip.declare_vision_tower,
    "siglip_vision_model": siglip.declare_vision_tower,
    "idefics3_vision": siglip.declare_vision_tower,
    "smolvlm_vision": siglip.declare_vision_tower,
}

# The text models inside of multimodal ones that have a `model_type` of their own and are built like another.
_INNER = {
    "qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe",
    "qwen2_5_omni_text": "qwen2",
}  # fmt: skip


def fits(module: nn.Module) -> bool:
    """Whether vision tower and decoder are of kinds that are declared."""
    config = config_of(module)
    return _kind_of(config, "vision_config") in VISION and knows_decoder(module)


def knows_decoder(module: nn.Module) -> bool:
    """Whether the decoder is of a kind that is declared."""
    kind = _kind_of(config_of(module), "text_config")
    return _INNER.get(kind, kind) in decoders.TABLES


def _kind_of(config: Any, part: str) -> str:
    return str(getattr(getattr(config, part, None), "model_type", ""))


def declare_vision(module: nn.Module, root: str, **changes: Any) -> TowerPart:
    """The vision tower at `root` as part of a larger model. Without the pooling head that no such model reads its stream can
    be cut; `changes` are other fields of the part."""
    tower = VISION[_kind_of(config_of(module), "vision_config")](root)
    fixed = tower.whole_width if root_of(module, f"{root}.head") else ""
    return replace(tower, **{"after": (), "whole_tokens": PLACEHOLDERS, "whole_width": fixed, **changes})


def let_read(projector: str, reader: str, handed: int = 0, placeholder: str = "image_token_id") -> dict[str, Any]:
    """Fields of a tower whose tokens the decoder at the path `reader` reads, as the module at `projector` makes them; so many of one item
    of the usual size are `handed` over, 0 where that varies."""
    return {"whole_reading": "", "projector": projector, "reader": reader, "handed": handed, "placeholder": placeholder}


def build_pair(
    module: nn.Module, words: str, vision: TowerPart, fusion: TowerPart, *more: TowerPart, **changes: Any
) -> Layout:
    """The layout of a decoder at `words` that reads what `fusion` makes of `vision`. `more` are pieces that run before the decoder,
    `changes` other fields of its part."""
    return build_around_decoder(module, words, [vision, fusion, *more], **changes)


def build_around_decoder(module: nn.Module, words: str, pieces: Sequence[TowerPart], **changes: Any) -> Layout:
    """The layout of a decoder at `words` that reads what `pieces` make: words are embedded first, then these run, then its blocks."""
    fixed = explain_fixed_width(output.field for output in outputs(module))
    kind = _kind_of(config_of(module), "text_config")
    root = root_of(module, f"{words}.decoder", words)
    decoder = decoders.declare_decoder(module, _INNER.get(kind, kind), root, fixed)
    embedding = TowerPart("text", "text", root, stem=decoder.stem[:1])
    return build_layout(module, [embedding, *pieces, replace(decoder, stem=decoder.stem[1:], **changes)])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Scores of the next token, or the decoder's mean state; both see all modalities."""
    if hasattr(module, "lm_head"):
        return (Output("logits", "all", "tokens", mask="attention_mask"),)
    return (Output("last_hidden_state", "all", "embedding", pool="mean", mask="attention_mask"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Image and text."""
    return ("image", "text")


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """In the decoder's stream (batch, tokens) placeholders are of the modality that takes their place, those of the target are the
    answer, all others text. Where a decoder reads only some of what takes their place, they are fewer than in the `whole` text."""
    stream = encoding.mark_text_tokens(batch)
    for name, modality in (("image_token_id", encoding.IMAGE), ("audio_token_id", encoding.AUDIO)):
        held = getattr(config_of(module), name, None)
        stream = stream if held is None else stream.masked_fill(batch["input_ids"] == int(held), modality)
    reader = root_of(module, *(f"{inner}{name}" for inner in ("model.", "") for name in ("language_model", "text_model")))
    share, each = find_unread_share(module.get_submodule(reader))
    if not share:
        return {"text": stream}
    media = (stream == encoding.IMAGE) | (stream == encoding.AUDIO)
    return {"text": encoding.leave_out_unread(stream, media, share, each), "text.whole": stream}


def make_blank_prompt(module: nn.Module, images: int = 0, audios: int = 0) -> dict[str, Tensor]:
    """`input_ids` int64 (1, images + audios + 128): so many placeholders for images and for audio, then the text."""
    config, length = config_of(module), images + audios
    batch = encoding.make_blank_text(module, length + encoding.USUAL_TOKENS)
    if images:
        batch["input_ids"][:, :images] = int(config.image_token_id)
    if audios:
        batch["input_ids"][:, images:length] = int(config.audio_token_id)
    return batch

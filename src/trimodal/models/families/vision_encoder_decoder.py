"""An image encoder and a text decoder that attends to it (TrOCR, Donut, ViT with GPT-2), put together of declared towers. Li et al. 2021,
arXiv 2109.10282; Kim et al. 2021, arXiv 2111.15664."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of
from trimodal.models.families import decoders, swin, vit
from trimodal.models.families.prompts import make_decoder_rows
from trimodal.models.model import Batch, Family, LoadedSample, Output, Processors
from trimodal.models.parts import OWN, AnyPart, AttentionPart, LayerPart, MlpPart, TowerPart
from trimodal.models.transformers_models.decoding import find_start_token

LAID_OUT = "its forward lays the heads out as wide as the stream, whatever their number"
FUSED = "the decoder reads keys and values of it with one matrix, which nobody has declared"
ENCODERS: Mapping[str, Callable[[nn.Module, str], TowerPart]] = {
    "vit": vit.declare_tower,
    "deit": vit.declare_tower,
    "swin": swin.declare_tower,
    "donut-swin": swin.declare_tower,
}


def declare_attention(path: str, branch: str = "", whole: str = "") -> AttentionPart:
    """The attention at `path`, whose keys and values of the `cross` branch are the image's; `whole` is why its heads stay."""
    return AttentionPart(
        f"{path}.q_proj",
        f"{path}.k_proj",
        f"{path}.v_proj",
        f"{path}.out_proj",
        width="" if whole else f"{path}.head_dim",
        heads=() if whole else (f"{path}.num_heads",),
        branch=branch,
        memory="image" if branch else OWN,
        whole_heads=whole,
    )


def declare_block(before: bool, whole: str = "") -> tuple[AnyPart, ...]:
    """One block; `before` where norms feed what they belong to."""
    pairs = (
        (declare_attention("self_attn", whole=whole), LayerPart("self_attn_layer_norm", "norm", "attention")),
        (declare_attention("encoder_attn", "cross", whole), LayerPart("encoder_attn_layer_norm", "norm", "cross")),
        (MlpPart("fc1", "fc2"), LayerPart("final_layer_norm", "norm", "mlp")),
    )
    return tuple(part for pair in pairs for part in (pair[::-1] if before else pair))


# TrOCR's own attention works out widths from the stream; mBART's goes by the width of a head.
BLOCKS: Mapping[str, tuple[AnyPart, ...]] = {"trocr": declare_block(False, LAID_OUT), "mbart": declare_block(True)}


def declare_decoder(module: nn.Module, kind: str) -> TowerPart:
    """The decoder of the `model_type` `kind`."""
    if kind == "gpt2":
        return replace(decoders.declare_decoder(module, kind, "decoder.transformer"), after=(LayerPart("decoder.lm_head", "head"),))
    return TowerPart(
        "text",
        "text",
        "decoder.model.decoder",
        stem=(
            LayerPart("embed_tokens", "embedding"),
            LayerPart("embed_positions", "embedding", "position"),
            LayerPart("layernorm_embedding", "norm", "stem"),
        ),
        blocks="layers",
        block=BLOCKS[kind],
        head=(LayerPart("layer_norm", "norm", "final"),),
        after=(LayerPart("decoder.output_projection", "head"), LayerPart("decoder.lm_head", "head")),
        counted="decoder_layers",
        whole_width=LAID_OUT if kind == "trocr" else "",
    )


def describe(module: nn.Module) -> Layout:
    """The encoder (`image`), what makes its states as wide as the decoder's (`fusion`), the decoder (`text`)."""
    config = config_of(module)
    kind = config.decoder.model_type
    encoder = replace(ENCODERS[config.encoder.model_type](module, "encoder"), after=(), restored=False)
    encoder = replace(encoder, whole_width=encoder.whole_width or (FUSED if kind == "gpt2" else ""))
    line = LayerPart("enc_to_dec_proj", "projector", stream=("image", ""))
    between = [TowerPart("fusion", "fusion", "", head=(line,))] if hasattr(module, "enc_to_dec_proj") else []
    return build_layout(module, [encoder, *between, declare_decoder(module, kind)])


def fits(module: nn.Module) -> bool:
    """Whether encoder and decoder are of kinds that are declared."""
    config = config_of(module)
    return config.encoder.model_type in ENCODERS and config.decoder.model_type in {*BLOCKS, "gpt2"}


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Scores of the next token."""
    return (Output("logits", "text", "tokens", mask="decoder_attention_mask"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Image; and text, which is what the decoder is to say."""
    return ("image", "text")


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width), and `decoder_input_ids` with `decoder_attention_mask` int64 (batch, tokens): the
    start token and the target, or the text, of each sample."""
    config: Any = config_of(module)
    batch = encoding.encode_images(processors, loaded)
    start = find_start_token(module)  # it stands in the decoder's part where the whole configuration has none
    rows = make_decoder_rows(processors, loaded, start, config.decoder.eos_token_id, int(config.decoder.max_position_embeddings))
    pad = next((c.pad_token_id for c in (config.decoder, config) if getattr(c, "pad_token_id", None) is not None), start)
    ids, mask = encoding.pad_token_rows(rows, int(pad))
    return encoding.cast_floats(module, {**batch, "decoder_input_ids": ids, "decoder_attention_mask": mask})


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The decoder's (batch, tokens) are text; keys and values of its cross-attention are image, all of them."""
    return {"text": encoding.mark_text_tokens(batch, "decoder_input_ids", "decoder_attention_mask")}


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image (1, channels, height, width), and 128 tokens that are said, (1, tokens)."""
    config = config_of(module)
    said = encoding.make_blank_text(module, min(encoding.USUAL_TOKENS, int(config.decoder.max_position_embeddings)))
    size = encoding.height_and_width(config.encoder.image_size)
    return {**encoding.make_blank_image(module, config.encoder.num_channels, *size), "decoder_input_ids": said["input_ids"]}


FAMILY = Family(
    "vision-encoder-decoder", ("vision-encoder-decoder",), describe, outputs, modalities, encode, tokens, example, fits=fits
)  # fmt: skip

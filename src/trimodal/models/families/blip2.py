"""BLIP-2: a vision tower, a Q-former whose learnt queries attend to it, and a decoder that reads them as words. Li et al. 2023,
arXiv 2301.12597."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of
from trimodal.models.families import decoders
from trimodal.models.families import vision_language as pairs
from trimodal.models.families.prompts import finish_batch, spell_token, tokenize_prompts, write_prompts
from trimodal.models.model import Family, LoadedSample, Output, Processors
from trimodal.models.parts import OWN, AnyPart, AttentionPart, LayerPart, MlpPart, TowerPart

STREAM = "its forward works out the width of a head from that of the stream"
FUSED = "its keys come out of one weight with queries and values, so nothing tells which tokens are alike"
NUMBERED = "every second of its blocks attends to the image, by its number"
VISION_BLOCK = (
    LayerPart("layer_norm1", "norm", "attention"),
    AttentionPart("self_attn.qkv", "self_attn.qkv", "self_attn.qkv", "self_attn.projection", whole_heads=STREAM),
    LayerPart("layer_norm2", "norm", "mlp"),
    MlpPart("mlp.fc1", "mlp.fc2"),
)


def declare_query_attention(path: str, branch: str = "") -> tuple[AnyPart, ...]:
    """The Q-former's attention at `path` and the norm behind it."""
    inside = f"{path}.attention"
    attention = AttentionPart(
        f"{inside}.query",
        f"{inside}.key",
        f"{inside}.value",
        f"{path}.output.dense",
        width=f"{inside}.attention_head_size",
        heads=(f"{inside}.num_attention_heads",),
        sizes=(f"{inside}.all_head_size",),
        branch=branch,
        memory="image" if branch else OWN,
    )
    return attention, LayerPart(f"{path}.output.LayerNorm", "norm", branch or "attention")


QUERY_BLOCK = (
    *declare_query_attention("attention"),
    *declare_query_attention("crossattention", "cross"),
    MlpPart("intermediate_query.dense", "output_query.dense"),
    LayerPart("output_query.LayerNorm", "norm", "mlp"),
)


def describe(module: nn.Module) -> Layout:
    """Vision tower (`image`), Q-former and its projection (`fusion`), decoder (`text`)."""
    vision = TowerPart(
        "image", "image", "vision_model", stem=(LayerPart("embeddings.patch_embedding", "patch"),), blocks="encoder.layers",
        block=VISION_BLOCK, head=(LayerPart("post_layernorm", "norm", "final"),), whole_tokens=FUSED,
        free_parameters=("embeddings.class_embedding", "embeddings.position_embedding"), whole_width=STREAM,
    )  # fmt: skip
    queries = TowerPart("fusion", "fusion", "", free_parameters=("query_tokens",))
    former = TowerPart(
        "fusion", "fusion", "qformer", stem=(LayerPart("layernorm", "norm", "stem"),), blocks="encoder.layer", block=QUERY_BLOCK,
        after=(LayerPart("language_projection", "projector", stream=("fusion", "text")),),
        whole_tokens="the text has one placeholder for every query", whole_blocks=NUMBERED, whole_width="",
    )  # fmt: skip
    decoder = decoders.declare_decoder(module, config_of(module).text_config.model_type, "language_model.model.decoder")
    embedding = replace(decoder, stem=decoder.stem[:1], blocks="", block=(), head=(), after=())
    behind = replace(decoder, stem=decoder.stem[1:], after=(LayerPart("language_model.lm_head", "head"),))
    return build_layout(module, [queries, vision, former, embedding, behind])


def fits(module: nn.Module) -> bool:
    """Whether the decoder is OPT, in the class that writes."""
    whole = hasattr(module, "language_model") and hasattr(module, "query_tokens")
    return whole and config_of(module).text_config.model_type == "opt"


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Scores of the next token."""
    return (Output("logits", "all", "tokens", mask="attention_mask"),)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width), `input_ids`, `attention_mask`, and with targets `labels`, all (batch, tokens):
    the text behind one placeholder for every query."""
    config: Any = config_of(module)
    image = spell_token(processors, config, "image_token_id")
    prompts = [p.replace(f"{image}\n", image, 1) for p in write_prompts(loaded, image)]
    words = tokenize_prompts(processors, [prompt.replace(image, image * int(config.num_query_tokens), 1) for prompt in prompts])
    batch = finish_batch(module, processors, loaded, {**encoding.encode_images(processors, loaded), **words})
    return batch | encoding.make_answer_labels(processors, loaded, batch["input_ids"], batch["attention_mask"])


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image (1, channels, height, width) and a text of 128 tokens behind the queries' tokens, (1, tokens)."""
    config = config_of(module)
    vision = config.vision_config
    pixels = encoding.make_blank_image(module, 3, *encoding.height_and_width(vision.image_size))
    longest = int(config.text_config.max_position_embeddings)
    batch = pairs.make_blank_prompt(module, int(config.num_query_tokens))
    return {"input_ids": batch["input_ids"][:, :longest], **pixels}


FAMILY = Family(
    "blip-2", ("blip-2",), describe, outputs, pairs.modalities, encode, pairs.tokens, example, fits=fits
)  # fmt: skip

"""CLIP: a vision and a text Transformer that meet in two linear projections. Radford et al. 2021, arXiv 2103.00020."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, config_of, explain_fixed_width, root_of
from trimodal.models.model import Batch, Family, LoadedSample, Output, Processors
from trimodal.models.parts import AttentionPart, LayerPart, MlpPart, TowerPart

BLOCK = (
    LayerPart("layer_norm1", "norm", "attention"),
    AttentionPart(
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
        width="self_attn.head_dim",
        heads=("self_attn.num_heads",),
    ),
    LayerPart("layer_norm2", "norm", "mlp"),
    MlpPart("mlp.fc1", "mlp.fc2"),
)


def declare_vision_tower(root: str, pooled_by_mean: bool = False, whole_width: str = "") -> TowerPart:
    """The vision tower that stands at `root`; also LLaVA's. It is the class token that is read in the end, unless a
    classifier takes the mean of the others."""
    return TowerPart(
        "image",
        "image",
        root,
        stem=(
            LayerPart("embeddings.patch_embedding", "patch"),
            LayerPart("embeddings.position_embedding", "embedding", "position"),
            LayerPart("pre_layrnorm", "norm", "stem"),
        ),
        blocks="encoder.layers",
        block=BLOCK,
        head=(LayerPart("post_layernorm", "norm", "final"),),
        after=(LayerPart("visual_projection", "projector"), LayerPart("classifier", "head")),
        whole_tokens="",
        protected=1,
        restored=pooled_by_mean,
        free_parameters=("embeddings.class_embedding",),
        whole_width=whole_width,
    )


def declare_text_tower(root: str, whole_width: str = "") -> TowerPart:
    """The text tower that stands at `root`."""
    return TowerPart(
        "text",
        "text",
        root,
        stem=(
            LayerPart("embeddings.token_embedding", "embedding"),
            LayerPart("embeddings.position_embedding", "embedding", "position"),
        ),
        blocks="encoder.layers",
        block=BLOCK,
        head=(LayerPart("final_layer_norm", "norm", "final"),),
        after=(LayerPart("text_projection", "projector"),),
        whole_width=whole_width,
    )


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Both for the whole model, one for a class that holds one tower."""
    return tuple(m for m in ("image", "text") if m in getattr(module, "input_modalities", ()))


def describe(module: nn.Module) -> Layout:
    """Vision runs before text, as in `CLIPModel.forward`."""
    whole_width = explain_fixed_width(output.field for output in outputs(module))
    image = declare_vision_tower(root_of(module, "vision_model"), hasattr(module, "classifier"), whole_width)
    towers = {"image": image, "text": declare_text_tower(root_of(module, "text_model"), whole_width)}
    return build_layout(module, [towers[m] for m in modalities(module)])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """The projected embeddings; the pooled states of a class without a projection; the scores of a classifier."""
    if hasattr(module, "classifier"):
        return (Output("logits", "image", "logits", label="label"),)
    projected = {"image": "visual_projection", "text": "text_projection"}
    return tuple(
        Output(f"{m}_embeds" if hasattr(module, projected[m]) else "pooler_output", m, "embedding")
        for m in modalities(module)
    )


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width), `input_ids` and `attention_mask` (batch, tokens), as far as the class takes
    them. The whole model needs both."""
    encoding.require_modalities(loaded, *modalities(module))
    batch: dict[str, Tensor] = {}
    if "image" in modalities(module):
        batch |= encoding.encode_images(processors, loaded)
    if "text" in modalities(module):
        batch |= encoding.encode_texts(processors, loaded, position_limit(module))
    return encoding.cast_floats(module, batch)


def position_limit(module: nn.Module) -> int:
    """How many tokens the text tower can take."""
    config = getattr(config_of(module), "text_config", config_of(module))
    return int(config.max_position_embeddings)


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Text (batch, tokens) with its padding left out."""
    return {"text": encoding.mark_text_tokens(batch)} if "input_ids" in batch else {}


def example(module: nn.Module) -> dict[str, Tensor]:
    """One image (1, channels, height, width), one text of full length (1, tokens); also SigLIP's."""
    vision = getattr(config_of(module), "vision_config", config_of(module))
    batch: dict[str, Tensor] = {}
    if "image" in modalities(module):
        batch |= encoding.make_blank_image(module, vision.num_channels, *encoding.height_and_width(vision.image_size))
    if "text" in modalities(module):
        batch |= encoding.make_blank_text(module, position_limit(module))
    return batch


FAMILY = Family(
    "clip", ("clip", "clip_vision_model", "clip_text_model"), describe, outputs, modalities, encode, tokens, example
)

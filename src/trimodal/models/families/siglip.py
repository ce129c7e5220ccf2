"""SigLIP: CLIP's two towers trained with a sigmoid loss, the image pooled by attention. Zhai et al. 2023,
arXiv 2303.15343."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import build_layout, explain_fixed_width, root_of
from trimodal.models.families import clip
from trimodal.models.model import Family, LoadedSample, Output, Processors
from trimodal.models.parts import AttentionPart, LayerPart, MlpPart, TowerPart

POOLING = AttentionPart(
    "head.attention.q_proj",
    "head.attention.k_proj",
    "head.attention.v_proj",
    "head.attention.out_proj",
    width="head.attention.head_dim",
    heads=("head.attention.num_heads",),
    branch="pool",
)


def declare_vision_tower(root: str) -> TowerPart:
    """The vision tower that stands at `root`; also LLaVA-like models'. The attention of its pooling head, an
    `nn.MultiheadAttention`, is opened when the model is read. It looks at every token alike, so it needs as many as there
    were."""
    return TowerPart(
        "image",
        "image",
        root,
        stem=(
            LayerPart("embeddings.patch_embedding", "patch"),
            LayerPart("embeddings.position_embedding", "embedding", "position"),
        ),
        blocks="encoder.layers",
        block=clip.BLOCK,
        head=(
            LayerPart("post_layernorm", "norm", "final"),
            POOLING,
            LayerPart("head.layernorm", "norm", "pool"),
            MlpPart("head.mlp.fc1", "head.mlp.fc2", branch="pool"),
        ),
        after=(LayerPart("classifier", "head"),),
        whole_tokens="",
        restored=True,
        whole_width="the attention that pools it is an nn.MultiheadAttention, as wide as its heads together",
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
        block=clip.BLOCK,
        head=(LayerPart("final_layer_norm", "norm", "final"), LayerPart("head", "projector")),
        whole_width=whole_width,
    )


def describe(module: nn.Module) -> Layout:
    """Vision runs before text, as in `SiglipModel.forward`."""
    words = declare_text_tower(root_of(module, "text_model"), explain_fixed_width(output.field for output in outputs(module)))
    towers = {"image": declare_vision_tower(root_of(module, "vision_model")), "text": words}
    return build_layout(module, [towers[m] for m in clip.modalities(module)])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Both embeddings of the whole model, the pooled states of one tower, the scores of a classifier."""
    if hasattr(module, "classifier"):
        return (Output("logits", "image", "logits", label="label"),)
    found = clip.modalities(module)
    return tuple(Output(f"{m}_embeds" if len(found) > 1 else "pooler_output", m, "embedding") for m in found)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width) and `input_ids` int64 (batch, tokens). SigLIP was trained on texts padded to
    full length, without a mask."""
    encoding.require_modalities(loaded, *clip.modalities(module))
    batch: dict[str, Tensor] = {}
    if "image" in clip.modalities(module):
        batch |= encoding.encode_images(processors, loaded)
    if "text" in clip.modalities(module):
        batch |= encoding.encode_texts(processors, loaded, clip.position_limit(module), full=True)
    return encoding.cast_floats(module, batch)


FAMILY = Family(
    "siglip", ("siglip", "siglip_vision_model", "siglip_text_model"), describe, outputs, clip.modalities, encode,
    example=clip.example,
)  # fmt: skip

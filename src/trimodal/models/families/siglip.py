"""SigLIP: CLIP's two towers trained with a sigmoid loss, the image pooled by attention. Zhai et al. 2023,
arXiv 2303.15343."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import Mlp, Part, TowerPart, handed_out, lay_out, root_of
from trimodal.models.families import clip
from trimodal.models.model import Family, Loaded, Output, Processors


def vision(root: str) -> TowerPart:
    """The vision tower that stands at `root`; also LLaVA-like models'. The attention of its pooling head is an
    `nn.MultiheadAttention`, whose weights nothing but itself can use; they are no sites. It looks at every token alike, so
    it needs as many as there were."""
    return TowerPart(
        "image",
        "image",
        root,
        stem=(
            Part("embeddings.patch_embedding", "patch"),
            Part("embeddings.position_embedding", "embedding", "position"),
        ),
        blocks="encoder.layers",
        block=clip.BLOCK,
        head=(
            Part("post_layernorm", "norm", "final"),
            Part("head.layernorm", "norm", "pool"),
            Mlp("head.mlp.fc1", "head.mlp.fc2", branch="pool"),
        ),
        after=(Part("classifier", "head"),),
        whole_tokens="",
        restored=True,
        whole_width="the attention that pools it is an nn.MultiheadAttention, as wide as its heads together",
    )


def text(root: str, whole_width: str = "") -> TowerPart:
    """The text tower that stands at `root`."""
    return TowerPart(
        "text",
        "text",
        root,
        stem=(
            Part("embeddings.token_embedding", "embedding"),
            Part("embeddings.position_embedding", "embedding", "position"),
        ),
        blocks="encoder.layers",
        block=clip.BLOCK,
        head=(Part("final_layer_norm", "norm", "final"), Part("head", "projector")),
        whole_width=whole_width,
    )


def describe(module: nn.Module) -> Layout:
    """Vision runs before text, as in `SiglipModel.forward`."""
    words = text(root_of(module, "text_model"), handed_out(output.field for output in outputs(module)))
    towers = {"image": vision(root_of(module, "vision_model")), "text": words}
    return lay_out(module, [towers[m] for m in clip.modalities(module)])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Both embeddings of the whole model, the pooled states of one tower, the scores of a classifier."""
    if hasattr(module, "classifier"):
        return (Output("logits", "image", "logits", label="label"),)
    found = clip.modalities(module)
    return tuple(Output(f"{m}_embeds" if len(found) > 1 else "pooler_output", m, "embedding") for m in found)


def encode(module: nn.Module, processors: Processors, loaded: Sequence[Loaded]) -> dict[str, Tensor]:
    """`pixel_values` and `input_ids`. SigLIP was trained on texts padded to full length, without a mask."""
    encoding.need(loaded, *clip.modalities(module))
    batch: dict[str, Tensor] = {}
    if "image" in clip.modalities(module):
        batch |= encoding.images(processors, loaded)
    if "text" in clip.modalities(module):
        batch |= encoding.texts(processors, loaded, clip.position_limit(module), full=True)
    return encoding.in_dtype(module, batch)


FAMILY = Family(
    "siglip", ("siglip", "siglip_vision_model", "siglip_text_model"), describe, outputs, clip.modalities, encode,
    example=clip.example,
)  # fmt: skip

"""DINOv2: a ViT that scales what every branch adds, channel by channel (LayerScale). Oquab et al. 2023, arXiv 2304.07193; with
registers: Darcet et al. 2023, arXiv 2309.16588."""

from __future__ import annotations

from torch import nn

from trimodal.core import Layout
from trimodal.models.declare import build_layout, config_of, explain_fixed_width, root_of
from trimodal.models.families import vit
from trimodal.models.model import Family, Output
from trimodal.models.parts import AttentionPart, LayerPart, MlpPart, TowerPart

SCALED = "its blocks hold the scales of LayerScale, which are in no site, so that nobody plans what goes with a block"
TWICE = "its classifier reads every dimension twice, in the class token and in the mean of the patches"
BLOCK = (
    LayerPart("norm1", "norm", "attention"),
    AttentionPart(
        "attention.q_proj",
        "attention.k_proj",
        "attention.v_proj",
        "attention.o_proj",
        width="attention.head_dim",
        heads=("attention.num_attention_heads",),
    ),
    LayerPart("norm2", "norm", "mlp"),
    MlpPart("mlp.fc1", "mlp.fc2"),
    MlpPart("mlp.up_proj", "mlp.down_proj", gate="mlp.gate_proj"),  # in place of the other: `use_swiglu_ffn`
)


def describe(module: nn.Module) -> Layout:
    """One tower. Class token, registers, positions and the scales of LayerScale are plain parameters and no sites. The
    head takes the mean of the patches, and a bare model hands them out, so all tokens come back."""
    fields = [output.field for output in outputs(module)]
    tower = TowerPart(
        "image",
        "image",
        root_of(module, "dinov2", "dinov2_with_registers"),
        stem=(LayerPart("embeddings.patch_embeddings.projection", "patch"),),
        blocks="encoder.layer",
        block=BLOCK,
        head=(LayerPart("layernorm", "norm", "final"),),
        after=(LayerPart("classifier", "head", stream=("", "")),),
        whole_tokens="",
        protected=1 + getattr(config_of(module), "num_register_tokens", 0),
        restored=True,
        whole_blocks=SCALED,
        whole_width=explain_fixed_width(fields) or TWICE,
    )
    return build_layout(module, [tower])


def outputs(module: nn.Module) -> tuple[Output, ...]:
    """Class scores, or the state of the class token."""
    if hasattr(module, "classifier"):
        return (Output("logits", "image", "logits", label="label"),)
    return (Output("pooler_output", "image", "embedding"),)


FAMILY = Family(
    "dinov2", ("dinov2", "dinov2_with_registers"), describe, outputs, vit.modalities, vit.encode, example=vit.example
)  # fmt: skip

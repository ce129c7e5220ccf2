"""DINOv2: a ViT that scales what every branch adds, channel by channel (LayerScale). Oquab et al. 2023, arXiv 2304.07193; with
registers: Darcet et al. 2023, arXiv 2309.16588. DINOv3 turns its patches by where they stand: Siméoni et al. 2025,
arXiv 2508.10104."""

from __future__ import annotations

from torch import nn

from trimodal.core import Layout
from trimodal.models.declare import build_layout, config_of, explain_fixed_width, root_of
from trimodal.models.families import vit
from trimodal.models.model import Family, Output
from trimodal.models.parts import AnyPart, AttentionPart, LayerPart, MlpPart, TowerPart

SCALED = "its blocks hold the scales of LayerScale, which are in no site, so that nobody plans what goes with a block"
TWICE = "its classifier reads every dimension twice, in the class token and in the mean of the patches"
TURNED = "every patch is turned by where it stood, so none can take the place of two"


def declare_block(third: bool = False, gated: bool = True) -> tuple[AnyPart, ...]:
    """One block; the `third` DINO counts its heads under another name, and has a gate only in its largest models."""
    attention = AttentionPart(
        "attention.q_proj",
        "attention.k_proj",
        "attention.v_proj",
        "attention.o_proj",
        width="attention.head_dim",
        heads=("attention.num_heads" if third else "attention.num_attention_heads",),
    )
    return (
        LayerPart("norm1", "norm", "attention"),
        attention,
        LayerPart("norm2", "norm", "mlp"),
        MlpPart("mlp.fc1", "mlp.fc2"),
        MlpPart("mlp.up_proj", "mlp.down_proj", gate="mlp.gate_proj" if gated else ""),  # in place of the other
    )


def describe(module: nn.Module) -> Layout:
    """One tower. Class token, registers, positions and the scales of LayerScale are plain parameters and no sites. The
    head takes the mean of the patches, and a bare model hands them out, so all tokens come back."""
    fields = [output.field for output in outputs(module)]
    third = config_of(module).model_type == "dinov3_vit"
    gated = not third or bool(config_of(module).use_gated_mlp)
    tower = TowerPart(
        "image",
        "image",
        root_of(module, "dinov2", "dinov2_with_registers"),
        stem=(LayerPart("embeddings.patch_embeddings.projection", "patch"), LayerPart("embeddings.patch_embeddings", "patch")),
        blocks="model.layer" if third else "encoder.layer",
        block=declare_block(third, gated),
        head=(LayerPart("layernorm", "norm", "final"), LayerPart("norm", "norm", "final")),
        after=(LayerPart("classifier", "head", stream=("", "")),),
        whole_tokens=TURNED if third else "",
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
    "dinov2", ("dinov2", "dinov2_with_registers", "dinov3_vit"), describe, outputs, vit.modalities, vit.encode, example=vit.example
)  # fmt: skip

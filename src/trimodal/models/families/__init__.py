"""Which kinds of model there are. A new family is one file here and one line in `FAMILIES`."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from trimodal.models import generic
from trimodal.models.families import (
    ast,
    bert,
    clap,
    clip,
    decoders,
    dinov2,
    encoders,
    fusion,
    llama,
    llava,
    resnet,
    seq2seq,
    siglip,
    vit,
    wav2vec2,
    whisper,
)
from trimodal.models.model import Family

FAMILIES: tuple[Family, ...] = (
    clip.FAMILY,
    siglip.FAMILY,
    vit.FAMILY,
    dinov2.FAMILY,
    bert.FAMILY,
    whisper.FAMILY,
    llama.FAMILY,
    llava.FAMILY,
    clap.FAMILY,
    wav2vec2.FAMILY,
    ast.FAMILY,
    resnet.FAMILY,
    fusion.FAMILY,
    *encoders.FAMILIES,
    *decoders.FAMILIES,
    *seq2seq.FAMILIES,
)


def family_of(module: nn.Module) -> Family:
    """The family that covers `config_of(module).model_type`, else the generic one. A module that is no model of
    Transformers may hold such a configuration and be made of other parts."""
    model_type = module.config.model_type if isinstance(module, PreTrainedModel) else None
    return next((family for family in FAMILIES if model_type in family.model_types), generic.FAMILY)

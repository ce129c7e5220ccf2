"""Which kinds of model there are. A new family is one file here and one line in `FAMILIES`."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from trimodal.models import generic
from trimodal.models.families import (
    ast,
    audio_language,
    bert,
    blip2,
    clap,
    clip,
    convnext,
    decoders,
    detr,
    dinov2,
    encoders,
    fusion,
    gemma3,
    idefics3,
    llama,
    llava,
    llava_next,
    owlvit,
    paligemma,
    qwen_vl,
    resnet,
    segformer,
    seq2seq,
    siglip,
    swin,
    vision_encoder_decoder,
    vit,
    wav2vec2,
    wav2vec2_bert,
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
    llava_next.FAMILY,
    qwen_vl.FAMILY,
    gemma3.FAMILY,
    paligemma.FAMILY,
    idefics3.FAMILY,
    audio_language.AUDIO_FAMILY,
    audio_language.OMNI_FAMILY,
    clap.FAMILY,
    wav2vec2.FAMILY,
    ast.FAMILY,
    resnet.FAMILY,
    swin.FAMILY,
    convnext.FAMILY,
    segformer.FAMILY,
    detr.FAMILY,
    owlvit.FAMILY,
    blip2.FAMILY,
    wav2vec2_bert.FAMILY,
    vision_encoder_decoder.FAMILY,
    fusion.FAMILY,
    *encoders.FAMILIES,
    *decoders.FAMILIES,
    *seq2seq.FAMILIES,
)


def family_of(module: nn.Module) -> Family:
    """The family that covers `config_of(module).model_type` and fits the module, else the generic one. A module
    that is no model of Transformers may hold such a configuration and be made of other parts."""
    model_type = module.config.model_type if isinstance(module, PreTrainedModel) else None
    named = (family for family in FAMILIES if model_type in family.model_types)
    return next((family for family in named if family.fits(module)), generic.FAMILY)

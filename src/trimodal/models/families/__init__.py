"""Which kinds of model there are. A new family is one file here and one line in `FAMILIES`."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from trimodal.installed import FAMILIES as ADDED
from trimodal.installed import list_added
from trimodal.models import generic, transformers_models
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
    multimodal,
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
    multimodal.FAMILY,
    *encoders.FAMILIES,
    *decoders.FAMILIES,
    *seq2seq.FAMILIES,
)


def list_families() -> tuple[Family, ...]:
    """What packages and the program added, and ours: a family of others goes before ours of the same model type.

    Raises:
        InputError: a package declares as a family what is none.
    """
    return (*list_added(ADDED, Family), *FAMILIES)


def find_own_class(name: str) -> type[PreTrainedModel] | None:
    """The class called `name` among those that families bring along, which Transformers has not."""
    return next((kind for family in list_families() for kind in family.classes if kind.__name__ == name), None)


def family_of(module: nn.Module) -> Family:
    """The family that covers `config_of(module).model_type` and fits the module, else that of any Transformers model. A module that is
    none may hold such a configuration and be made of other parts; it is of the generic family.

    Raises:
        InputError: a package declares as a family what is none.
    """
    if not isinstance(module, PreTrainedModel):
        return generic.FAMILY
    model_type = module.config.model_type
    found = (family for family in list_families() if model_type in family.model_types and family.fits(module))
    return transformers_models.serve_head(next(found, transformers_models.FAMILY), module)

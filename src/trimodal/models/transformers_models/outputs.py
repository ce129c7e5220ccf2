"""What of a Transformers model's output is compared: read off its head, and off the type that its forward says it returns."""

from __future__ import annotations

import dataclasses
import re
import sys
import typing
from typing import Any

from torch import nn
from transformers.utils.generic import ModelOutput

from trimodal.models.declare import config_of
from trimodal.models.model import Output
from trimodal.models.transformers_models.signature import find_modalities, is_encoder_decoder, reads_text, takes_prompts

_CLASSES = re.compile(r"For(Sequence|Image|Audio|Video|Vision)\w*Classification|ForMultipleChoice|ForNextSentencePrediction|ForXVector")
_CLASS_OUTPUTS = re.compile(r"(Sequence|Image|Video|Perceiver)\w*Classifier\w*Output|MultipleChoice\w*Output")
_TOKENS = re.compile(
    r"CausalLM|MaskedLM|LMHead|MTModel|ForConditionalGeneration|ForTokenClassification|ForCTC|Seq2Seq|SpeechToText|ForAudioFrame"
    r"|EncoderDecoderModel|Segmentation"
)
_TOKEN_OUTPUTS = re.compile(r"(CausalLM|MaskedLM|Seq2SeqLM|TokenClassifier|SemanticSegmenter|ConditionalGeneration)\w*Output")
_EMBEDS = {"image": "image_embeds", "audio": "audio_embeds", "text": "text_embeds"}
_FIELDS = (
    "pred_masks", "predicted_depth", "itm_score", "embeddings", "multimodal_embeddings", "audio_values", "reconstruction",
    "projected_states",
)  # fmt: skip
_MANY_LABELS = ("regression", "multi_label_classification")


def find_outputs(module: nn.Module) -> tuple[Output, ...]:
    """Boxes and their classes, starts and ends of answers, the embeddings of dual encoders, scores of classes or tokens, or the last
    states; else the first tensor, by its cosine."""
    fields = list_output_fields(module)
    modality = _modality_of(module)
    if "ForObjectDetection" in type(module).__name__ or {"pred_boxes", "logits"} <= fields:
        blank = _has_class_for_nothing(module)
        return (Output("pred_boxes", "image", "boxes", scores="logits", blank=blank), Output("logits", "image", "tokens", rows="query"))
    if "class_queries_logits" in fields:
        return (Output("class_queries_logits", "image", "tokens", rows="query"), Output("masks_queries_logits", "image", "embedding"))
    asks = type(module).__name__.endswith("ForQuestionAnswering") and modality == "text" and "logits" not in fields
    if asks or "start_logits" in fields:
        return (Output("start_logits", modality, "logits"), Output("end_logits", modality, "logits"))
    named = _CLASSES.search(type(module).__name__) or _TOKENS.search(type(module).__name__)
    embeds = [m for m in find_modalities(module) if _EMBEDS[m] in fields]
    if not named and (len(embeds) == 2 or (embeds and "Projection" in type(module).__name__)):
        return tuple(Output(_EMBEDS[m], m, "embedding") for m in embeds)
    if scores := _find_score_outputs(module, fields, modality):
        return scores
    found = next((name for name in _FIELDS if name in fields), None)
    if found == "embeddings" and reads_text(module):
        return (Output(found, modality, "embedding", pool="mean", mask="attention_mask"),)
    if found is not None:
        return (Output(found, modality, "embedding"),)
    return _find_state_outputs(module, fields, modality)


def list_output_fields(module: nn.Module) -> set[str]:
    """The names of what forward may return, by its annotation; empty where it has none that can be read."""
    return {field.name for kind in _list_output_types(module) for field in dataclasses.fields(kind)}


def _list_output_types(module: nn.Module) -> list[Any]:
    """The classes of outputs that forward's annotation names."""
    forward: Any = type(module).forward
    said = getattr(forward, "__annotations__", {}).get("return")
    if isinstance(said, str):
        known = vars(sys.modules[type(module).__module__])
        return [known[name] for name in re.findall(r"\w+", said) if _is_output_type(known.get(name))]
    return [kind for kind in (said, *typing.get_args(said)) if _is_output_type(kind)]


def _is_output_type(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, ModelOutput) and dataclasses.is_dataclass(kind)


def _modality_of(module: nn.Module) -> str:
    """That of an output that all inputs have a part in. What a decoder says is text."""
    found = find_modalities(module)
    if is_encoder_decoder(module):
        return "text"
    return found[0] if len(found) == 1 else "all"


def _has_class_for_nothing(module: nn.Module) -> bool:
    """Whether a detector's last class is no object: it has one more than there are labels."""
    heads = (getattr(module, name, None) for name in ("class_labels_classifier", "class_embed", "classification_head"))
    rows = [part.out_features for head in heads if isinstance(head, nn.Module) for part in head.modules() if isinstance(part, nn.Linear)]
    return bool(rows) and rows[-1] == getattr(config_of(module), "num_labels", 0) + 1


def _find_score_outputs(module: nn.Module, fields: set[str], modality: str) -> tuple[Output, ...]:
    """Scores of classes or of tokens."""
    name, said = type(module).__name__, " ".join(kind.__name__ for kind in _list_output_types(module))
    sure = bool(_CLASSES.search(name) or _TOKENS.search(name)) or not fields  # some annotations name another class's output
    field = "logits" if sure else next((field for field in ("logits", "prediction_logits") if field in fields), "")
    if not field:
        return ()
    if _CLASSES.search(name) or (not _TOKENS.search(name) and _CLASS_OUTPUTS.search(said)):
        if "last_hidden_state" in fields and "logits" not in fields:
            field = "last_hidden_state"  # PP-LCNet's name for them
        label = "" if getattr(config_of(module), "problem_type", None) in _MANY_LABELS or "XVector" in name else "label"
        return (Output(field, modality, "logits", label=label),)
    if field == "prediction_logits" or _TOKENS.search(name) or _TOKEN_OUTPUTS.search(said):
        if "Segmentation" in name and "SemanticSegmenter" not in said:
            return (Output(field, modality, "embedding"),)
        return (Output(field, modality, "tokens", mask=_mask_of(module), rows="pixel" if "Segment" in said else ""),)
    return (Output(field, modality, "embedding"),) if field in fields else ()


def _mask_of(module: nn.Module) -> str:
    """The mask of the tokens that scores are given for; frames of sound have none of their length."""
    if is_encoder_decoder(module):
        return "decoder_attention_mask"
    return "attention_mask" if reads_text(module) else ""


def _find_state_outputs(module: nn.Module, fields: set[str], modality: str) -> tuple[Output, ...]:
    """The states of a model without a head: their mean where they are of tokens or frames, else as they are."""
    if "last_hidden_state" not in fields:
        return (Output("pooler_output" if "pooler_output" in fields else "output", modality, "embedding"),)
    mean = reads_text(module) or is_encoder_decoder(module) or takes_prompts(module) or modality == "audio"
    mask = _mask_of(module) if mean and modality != "audio" else ""
    return (Output("last_hidden_state", modality, "embedding", pool="mean" if mean else "", mask=mask),)

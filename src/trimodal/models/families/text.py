"""What models of text have in common, whichever parts they are made of: outputs, inputs, and what their tokens are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models import encoding
from trimodal.models.declare import config_of
from trimodal.models.model import Batch, Family, LoadedSample, Output, Processors

_FROM_PADDING_ON = ("roberta", "xlm-roberta", "camembert", "mpnet", "clap_text_model")  # count positions from the padding id on


def list_encoder_outputs(module: nn.Module) -> tuple[Output, ...]:
    """Scores per class or per token, or the mean state of all tokens, which is what sentence encoders use."""
    kind = type(module).__name__
    if kind.endswith("ForSequenceClassification"):
        return (Output("logits", "text", "logits", label="label"),)
    if kind.endswith(("ForTokenClassification", "ForMaskedLM", "LMHeadModel", "ForCausalLM")):
        return (Output("logits", "text", "tokens", mask="attention_mask"),)
    if kind.endswith("ForQuestionAnswering"):
        return tuple(Output(f"{end}_logits", "text", "embedding") for end in ("start", "end"))
    if kind.endswith("Model"):
        return (Output("last_hidden_state", "text", "embedding", pool="mean", mask="attention_mask"),)
    return (Output("logits", "text", "embedding"),)


def list_decoder_outputs(module: nn.Module) -> tuple[Output, ...]:
    """Scores of the next token, class scores, or the mean state."""
    kind = type(module).__name__
    if hasattr(module, "lm_head"):
        return (Output("logits", "text", "tokens", mask="attention_mask"),)
    if hasattr(module, "score") and kind.endswith("ForSequenceClassification"):
        return (Output("logits", "text", "logits", label="label"),)
    if kind.endswith("Model"):
        return (Output("last_hidden_state", "text", "embedding", pool="mean", mask="attention_mask"),)
    return (Output("logits", "text", "embedding"),)


def modalities(module: nn.Module) -> tuple[str, ...]:
    """Text only."""
    return ("text",)


def position_limit(module: nn.Module) -> int:
    """How many tokens the model can take."""
    config = getattr(config_of(module), "text_config", config_of(module))
    offset = config.pad_token_id + 1 if config.model_type in _FROM_PADDING_ON else 0
    return int(config.max_position_embeddings - offset)


def encode_text(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (batch, tokens)."""
    return encoding.encode_texts(processors, loaded, position_limit(module))


def encode_dialogue(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (batch, tokens), padded on the right: the text and behind it the target, whose
    tokens are also the `labels`."""
    joined = [replace(s, text=" ".join(part for part in (s.text, s.target) if part) or None) for s in loaded]
    batch = encoding.encode_texts(processors, joined, position_limit(module))
    if not hasattr(module, "lm_head"):
        return batch
    return batch | encoding.make_answer_labels(processors, loaded, batch["input_ids"], batch["attention_mask"])


def tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Text (batch, tokens) with its padding left out; what is labelled is the answer."""
    return {"text": encoding.mark_text_tokens(batch)}


def example(module: nn.Module) -> dict[str, Tensor]:
    """One text of 128 tokens: `input_ids` int64 (1, tokens)."""
    return encoding.make_blank_text(module, min(encoding.USUAL_TOKENS, position_limit(module)))


def make_encoder_family(name: str, model_types: tuple[str, ...], describe: Callable[[nn.Module], Layout]) -> Family:
    """A family of encoders that takes a text and gives scores or states."""
    return Family(name, model_types, describe, list_encoder_outputs, modalities, encode_text, tokens, example)


def make_decoder_family(name: str, model_types: tuple[str, ...], describe: Callable[[nn.Module], Layout]) -> Family:
    """A family of decoders that takes a text and goes on with it."""
    return Family(name, model_types, describe, list_decoder_outputs, modalities, encode_dialogue, tokens, example)

"""What the forward of a Transformers model takes: read off its signature, its class and its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from trimodal.core import MODALITIES
from trimodal.models.declare import config_of

INPUTS: Mapping[str, tuple[str, ...]] = {
    "image": ("pixel_values", "flattened_patches", "pixel_values_videos"),
    "audio": ("input_features", "input_values", "audio_values", "audio_input_features"),
    "text": ("input_ids",),
}
"""By modality, the parameters that take it."""
_SAME = {"video": "image"}
_COUNTS = ("max_position_embeddings", "n_positions", "max_target_positions", "max_source_positions", "max_seq_len", "n_ctx")
_PLACEHOLDERS = {"image": ("image_token_id", "image_token_index"), "audio": ("audio_token_id", "audio_token_index")}
_NO_LIMIT = 1_000_000


def list_parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """What forward takes by name, in its order."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(module.forward).parameters
    return {name: parameter for name, parameter in found.items() if parameter.kind in kinds}


def list_required(module: nn.Module) -> list[str]:
    """What forward cannot go without."""
    return [name for name, parameter in list_parameters(module).items() if parameter.default is inspect.Parameter.empty]


def find_modalities(module: nn.Module) -> tuple[str, ...]:
    """What forward has a parameter for, out of what the class says it takes where that speaks of any; and text where a decoder is to
    say some. A film is an image that stands still."""
    taken = {modality for modality, names in INPUTS.items() if any(name in list_parameters(module) for name in names)}
    said: Any = getattr(module, "input_modalities", ())
    known = {_SAME.get(modality, modality) for modality in ([said] if isinstance(said, str) else said or ())}
    found = (taken & known) or taken
    return tuple(m for m in MODALITIES if m in found or (m == "text" and found and is_encoder_decoder(module)))


def is_encoder_decoder(module: nn.Module) -> bool:
    """Whether a decoder is given words of its own. Classifiers give it those of the text; BLIP-2 takes such too where its language model
    is none of that kind."""
    taken, name = list_parameters(module), type(module).__name__
    alone = getattr(config_of(module), "use_decoder_only_language_model", False)
    judges = "pixel_values" not in taken and ("Classification" in name or name.endswith("ForQuestionAnswering"))
    return "decoder_input_ids" in taken and not alone and not judges


def reads_text(module: nn.Module) -> bool:
    """Whether text is an input, and not only what a decoder is to say."""
    return "input_ids" in list_parameters(module) and "text" in find_modalities(module)


def find_placeholder(module: nn.Module, modality: str) -> int | None:
    """The id of the tokens in whose place the language model is given the features of an image or a sound; None without one."""
    found = read_setting(module, _PLACEHOLDERS[modality], "thinker", "vlm")
    return found if isinstance(found, int) else None


def takes_prompts(module: nn.Module) -> bool:
    """Whether it is a language model that is given images or sounds among its words."""
    return reads_text(module) and any(find_placeholder(module, modality) is not None for modality in _PLACEHOLDERS)


def takes_films(module: nn.Module) -> bool:
    """Whether its images are films: it takes no others, or is to tell what happens in them."""
    said: Any = getattr(module, "input_modalities", ())
    only = said in ("video", ("video",)) or isinstance(getattr(config_of(module), "num_frames", None), int)
    return only or ("pixel_values_videos" in list_parameters(module) and "pixel_values" not in list_parameters(module))


def iter_configs(module: nn.Module, *kinds: str) -> Iterator[Any]:
    """The sub-configurations whose names begin with one of `kinds`, however deep, each with what is in it; then the whole one."""
    whole = config_of(module)
    for kind in kinds:
        for name, part in _walk_configs(whole):
            if name.startswith(kind):
                yield part
                yield from (inner for _, inner in _walk_configs(part))
    yield whole


def _walk_configs(config: Any) -> Iterator[tuple[str, Any]]:
    """The sub-configurations of `config` by name, and theirs."""
    for name in getattr(config, "sub_configs", None) or ():
        part = getattr(config, name, None)
        if part is not None:
            yield name, part
            yield from _walk_configs(part)


def read_setting(module: nn.Module, names: tuple[str, ...], *kinds: str) -> Any:
    """The first of the settings `names` that is there, in the parts of the configuration that `iter_configs` gives; else None."""
    for config in iter_configs(module, *kinds):
        for name in names:
            if getattr(config, name, None) is not None:
                return getattr(config, name)
    return None


def find_position_limit(module: nn.Module) -> int | None:
    """How many tokens of text the model has positions for; None where it has no such limit. Models that count from the padding's id on,
    as RoBERTa does, have as many fewer."""
    found = read_setting(module, _COUNTS, "text", "thinker", "decoder", "encoder")
    if not isinstance(found, int) or not 0 < found < _NO_LIMIT:
        return None
    skipped = [
        part.padding_idx + 1
        for path, part in module.named_modules()
        if path.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx
    ]
    return found - max(skipped, default=0)


def find_decoder_limit(module: nn.Module) -> int | None:
    """How many tokens the decoder has positions for; None where it has no such limit."""
    names = ("max_target_positions", "max_position_embeddings", "n_positions")
    found = read_setting(module, names, "decoder", "text")
    return found if isinstance(found, int) and 0 < found < _NO_LIMIT else None

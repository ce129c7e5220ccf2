"""One step of a model that generates: new tokens in, scores of the next one out, the past kept in between.

    model                                    a decoder of tokens
    embed_tokens, decoder_model_merged, …    a decoder of vectors, in which images' features take the place of their tokens
    encoder_model, decoder_model_merged      a decoder that attends to what an encoder heard
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import InputError
from trimodal.runtimes.generation_settings import GenerationSettings
from trimodal.runtimes.part import PAST, Part, rename_present
from trimodal.runtimes.session import Arrays
from trimodal.runtimes.whisper_prompt import make_whisper_prompt

Tokens = NDArray[np.int64]
Floats = NDArray[Any]


class Steps(Protocol):
    """A generation under way: the `prompt` int64 (batch, tokens) that it begins with."""

    prompt: Tokens

    def advance(self, tokens: Tokens) -> Floats:
        """New tokens int64 (batch, new) -> scores of the next one (batch, vocabulary)."""
        ...


def start_steps(parts: Mapping[str, Part], inputs: Arrays, settings: GenerationSettings) -> Steps:
    """A generation from `inputs` of any shape, by the files that there are.

    Raises:
        InputError: these files do not generate, or an input is missing or has another shape than is taken.
    """
    if "encoder_model" in parts and "decoder_model_merged" in parts:
        return HearingSteps(parts["encoder_model"], parts["decoder_model_merged"], inputs, settings)
    if "embed_tokens" in parts and "decoder_model_merged" in parts:
        return EmbeddedSteps(parts, inputs, settings)
    if "model" in parts and any(name.startswith(PAST) for name in parts["model"].shapes):
        return TextSteps(parts["model"], inputs)
    raise InputError(f"{', '.join(parts)} do not generate text; expected a decoder with past_key_values among the inputs of its file")


class TextSteps:
    """A decoder of tokens; prompts of unlike length are padded on the left, with 0 in `attention_mask`."""

    first = "input_ids"

    def __init__(self, decoder: Part, inputs: Arrays) -> None:
        self.prompt: Tokens = _read_prompt(inputs, "input_ids")
        self._mask = np.asarray(inputs.get("attention_mask", np.ones_like(self.prompt)), np.int64)
        if self._mask.shape != self.prompt.shape:
            raise InputError(f"attention_mask has the shape {self._mask.shape} and input_ids {self.prompt.shape}; expected the same")
        self._decoder, self._past, self._seen = decoder, decoder.make_empty_past(len(self.prompt)), 0
        if not self._mask[:, -1].all():
            raise InputError("input_ids end with padding; expected texts padded on the left (the tokenizer's padding_side)")

    def advance(self, tokens: Tokens) -> Floats:
        """New tokens int64 (batch, new) -> scores of the next one (batch, vocabulary)."""
        self._seen += tokens.shape[1]
        more = self._seen - self._mask.shape[1]
        self._mask = np.pad(self._mask, ((0, 0), (0, more)), constant_values=1)
        positions = np.maximum(self._mask.cumsum(axis=1) - 1, 0)[:, -tokens.shape[1] :]
        found = self._decoder.run(
            {self.first: self._look_up(tokens), "attention_mask": self._mask, "position_ids": positions, **self._past}
        )
        self._past = rename_present(found)
        return last_scores(found)

    def _look_up(self, tokens: Tokens) -> Floats:
        """What the decoder takes of tokens int64 (batch, new)."""
        return tokens


class EmbeddedSteps(TextSteps):
    """A decoder of vectors. `pixel_values` become features, which replace the vectors of the image tokens in order."""

    first = "inputs_embeds"

    def __init__(self, parts: Mapping[str, Part], inputs: Arrays, settings: GenerationSettings) -> None:
        super().__init__(parts["decoder_model_merged"], inputs)
        self._words, self._image_token = parts["embed_tokens"], settings.image_token
        self._features: Floats | None = None
        if "pixel_values" in inputs:
            self._features = parts["vision_encoder"].run({"pixel_values": inputs["pixel_values"]})["image_features"]

    def _look_up(self, tokens: Tokens) -> Floats:
        """Vectors (batch, new, width)."""
        vectors = self._words.run({"input_ids": tokens})["inputs_embeds"]
        places = tokens == (-1 if self._image_token is None else self._image_token)
        if self._features is None or not places.any():
            return vectors
        rows = self._features.reshape(-1, self._features.shape[-1])
        if places.sum() != len(rows):
            raise InputError(f"input_ids have {places.sum()} image tokens and the images {len(rows)} features; expected as many")
        vectors = np.array(vectors)
        vectors[places], self._features = rows, None
        return vectors


class HearingSteps:
    """A decoder that attends to an encoder's states, whose keys and values the first step computes and all others reuse."""

    def __init__(self, encoder: Part, decoder: Part, inputs: Arrays, settings: GenerationSettings) -> None:
        self._decoder = decoder
        self._states = encoder.run(inputs)["last_hidden_state"]
        self._past = decoder.make_empty_past(len(self._states))
        if "decoder_input_ids" in inputs:
            self.prompt: Tokens = _read_prompt(inputs, "decoder_input_ids")
        else:
            self.prompt = make_whisper_prompt(settings, len(self._states), self._score_first)
        self._begun = False

    def advance(self, tokens: Tokens) -> Floats:
        """New tokens int64 (batch, new) -> scores of the next one (batch, vocabulary)."""
        found = self._run(tokens)
        fresh = rename_present(found)
        if self._begun:  # what was heard is the same for all steps: those after the first do not compute it
            fresh |= {name: self._past[name] for name in fresh if ".encoder." in name}
        self._past, self._begun = fresh, True
        return last_scores(found)

    def _run(self, tokens: Tokens) -> dict[str, Floats]:
        switch = np.array([self._begun])
        return self._decoder.run(
            {"input_ids": tokens, "encoder_hidden_states": self._states, "use_cache_branch": switch, **self._past}
        )

    def _score_first(self, tokens: Tokens) -> Floats:
        """Scores after `tokens` int64 (batch, new), and nothing kept of them."""
        self._begun = False
        return last_scores(self._run(tokens))


def last_scores(found: Mapping[str, Floats]) -> Floats:
    """Of `logits` (batch, new, vocabulary) those after the last token (batch, vocabulary)."""
    return found["logits"][:, -1]


def _read_prompt(inputs: Arrays, name: str) -> Tokens:
    """The tokens int64 (batch, tokens) under `name`."""
    if name not in inputs:
        raise InputError(f"{name} is missing; the inputs are {', '.join(inputs) or 'none'}")
    found = np.asarray(inputs[name])
    if found.ndim != 2 or not found.size:
        raise InputError(f"{name} has the shape {found.shape}; expected (batch, tokens), at least one token each")
    return found.astype(np.int64)

"""prune.tokens on the families that see or hear and speak: chosen by the question, inside of their decoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trimodal.edits import read_edit
from trimodal.edits.steps import replay_step_
from trimodal.errors import RecipeError
from trimodal.networks.tiny import make_miniature, make_miniature_batch

NAMES = ["paligemma", "gemma3-vision", "idefics3", "smolvlm", "llava-next", "llava-onevision", "qwen2-audio"]


def say(module: Any, batch: Any, **how: Any) -> Tensor:
    taken = {name: value.clone() for name, value in batch.items() if name != "labels"}
    never = [getattr(module.config, name, 0) for name in ("image_token_id", "audio_token_id")]  # placeholders of nothing
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, "suppress_tokens": never, **how}
    found: Tensor = module.generate(**taken, **options)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_question_chooses_what_is_read(compressed: Callable[..., Any], name: str) -> None:
    gptq = {"quantize.gptq": {"where": "text.1.*", "bits": 4, "group": 16}}
    done = compressed(name, [{"prune.tokens": {"where": "*", "by": "question"}}, gptq])
    assert len(done.plan.edits[0].places) == 1 and done.model.layout == done.expected
    module, layout = make_miniature(name), done.original.layout
    for number, step in enumerate(done.model.steps, start=1):
        layout = replay_step_(module, layout, read_edit(step.to_json(), 1 << 40), number)
    assert layout == done.model.layout
    batch = {key: value[:1] for key, value in make_miniature_batch(name, 2).items()}
    with torch.no_grad():
        layers = [layer.keys.shape[2] for layer in done.model.module(**batch).past_key_values.layers]
    length = batch["input_ids"].shape[1]
    codes = done.model.family.tokens(done.model.module, batch)
    assert layers[0] == length > layers[-1] == codes["text"].shape[1] and codes["text.whole"].shape[1] == length
    seen = next(record.tokens for record in done.records if record.place.startswith("text.1."))
    assert {"text", "image", "audio"} > seen.keys() and len(seen) == 2  # words are told from what was chosen
    assert torch.equal(say(done.model.module, batch), say(done.model.module, batch, use_cache=False))


@pytest.mark.parametrize("name", ["paligemma", "qwen2-audio"])
def test_before_the_decoder_nobody_knows_how_many_there_are(compressed: Callable[..., Any], name: str) -> None:
    with pytest.raises(RecipeError, match="gives varies, so they can be chosen inside of the decoder alone; give by: question"):
        compressed(name, ["prune.tokens"])

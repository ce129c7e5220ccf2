"""Decoders that read fewer tokens, inside the LLaVA that they belong to."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn

from trimodal.edits import ThinTokens
from trimodal.errors import TrimodalError
from trimodal.layers import (
    QuestionThinning,
    TokenThinning,
    mark_unread_,
    place_unmarked,
    skip_marked_,
    thin_by_question_,
)
from trimodal.models.families import family_of
from trimodal.networks.tiny import BOS, EOS, IMAGE_TOKEN, PAD, VOCABULARY, make_miniature, make_miniature_batch

WAYS = [("attention", "discard"), ("attention", "context"), ("diversity", "join"), ("norm", "discard"), ("question", "discard")]
PATCHES = 16
BLOCKS: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**BLOCKS, "image_size": 32, "patch_size": 8}
WORDS = {**BLOCKS, "vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}


def thinned(by: str = "attention", rest: str = "discard", share: float = 0.5, seed: int = 0, attention: str = "sdpa") -> tuple[Any, Any]:
    """The miniature as it was, and a copy that reads fewer tokens."""
    module: Any = make_miniature("llava", seed).eval()
    module.set_attn_implementation(attention)
    changed = copy.deepcopy(module)
    ThinTokens("image", share, by, rest, int(by == "question")).apply_(changed, family_of(module).describe(module))  # type: ignore[arg-type]
    return module, changed


def padded_left(n: int, seed: int = 3) -> dict[str, Tensor]:
    """Prompts of unlike lengths, as generation takes them."""
    batch = dict(make_miniature_batch("llava", n, seed))
    ids = batch["input_ids"].clone()
    ids[1::2, -3:] = PAD
    rolled = [row.roll(3) if number % 2 else row for number, row in enumerate(ids)]
    batch["input_ids"] = torch.stack(rolled)
    batch["attention_mask"] = (batch["input_ids"] != PAD).long()
    return batch


def say(module: Any, batch: Mapping[str, Tensor], **how: Any) -> Tensor:
    found: Tensor = module.generate(**batch, max_new_tokens=10, do_sample=False, pad_token_id=PAD, eos_token_id=None, **how)
    return found


def read_by_hand(module: Any, batch: Mapping[str, Tensor], kept: Tensor) -> Tensor:
    """The scores (batch, n, words) of the plain model for the tokens at `kept` (batch, n) alone, where they stand in the text."""
    rows = torch.arange(len(kept))[:, None]
    embeds = module.get_input_embeddings()(batch["input_ids"])
    features = torch.cat(list(module.get_image_features(batch["pixel_values"], return_dict=True).pooler_output))
    embeds[batch["input_ids"] == IMAGE_TOKEN] = features
    states = module.model.language_model(
        inputs_embeds=embeds[rows, kept], attention_mask=batch["attention_mask"][rows, kept], position_ids=kept
    ).last_hidden_state
    scores: Tensor = module.lm_head(states)
    return scores


def class_attention(module: Any, pixels: Tensor) -> Tensor:
    """Eager's row (batch, patches) of the class token in the block that the projector reads."""
    seen = module.model.vision_tower(pixel_values=pixels, output_attentions=True).attentions
    return seen[module.config.vision_feature_layer].mean(1)[:, 0, 1:]  # type: ignore[no-any-return]


@pytest.mark.parametrize("given", ["a mask", "no mask"])
def test_scores_are_those_of_the_plain_model_on_what_is_kept(given: str) -> None:
    plain, module = thinned(attention="eager")
    batch = dict(make_miniature_batch("llava", 4))
    if given == "no mask":
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    with torch.no_grad():
        best = class_attention(plain, batch["pixel_values"]).topk(8, dim=1).indices.sort(dim=1).values + 1
        words = torch.tensor([0, *range(17, 28)]).expand(4, -1)
        kept = torch.cat([words[:, :1], best, words[:, 1:]], dim=1)
        taken = {name: value for name, value in batch.items() if given == "a mask" or name != "attention_mask"}
        found, wanted = module(**taken), read_by_hand(plain, batch, kept)
        uncached = module(**taken, use_cache=False).logits
    scores = found.logits[torch.arange(4)[:, None], kept]
    assert torch.allclose(scores, wanted, atol=1e-5) and found.logits.shape[1] == 28
    assert torch.allclose(uncached, found.logits, atol=1e-5)


def test_what_is_not_read_has_the_scores_of_the_last_that_was() -> None:
    _, module = thinned(share=0.9)
    batch = make_miniature_batch("llava", 1)
    with torch.no_grad():
        scores = module(**batch).logits[0]
    changes = [place for place in range(1, 28) if not torch.equal(scores[place], scores[place - 1])]
    assert len([place for place in changes if place in range(1, 17)]) == 2 and all(place in changes for place in range(17, 28))


@pytest.mark.parametrize(("by", "rest"), WAYS)
def test_with_nothing_to_remove_it_is_as_it_was(by: str, rest: str) -> None:
    plain, module = thinned(by, rest, share=0.0)
    batch = make_miniature_batch("llava", 3)
    with torch.no_grad():
        assert torch.equal(plain(**batch).logits, module(**batch).logits)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("by", "rest"), WAYS)
def test_generate_with_a_cache_equals_generate_without(by: str, rest: str, attention: str) -> None:
    for seed in (0, 1):
        plain, module = thinned(by, rest, seed=seed, attention=attention)
        batch = padded_left(3, seed)
        found = say(module, batch)
        assert torch.equal(found, say(module, batch, use_cache=False)), seed
        one_by_one = [say(module, {name: value[n : n + 1] for name, value in batch.items()}) for n in range(3)]
        assert all(torch.equal(found[n, 28:], alone[0, 28:]) for n, alone in enumerate(one_by_one))
        assert not torch.equal(found, say(plain, batch))


@pytest.mark.parametrize("by", ["attention", "question"])
def test_beams_and_a_prompt_that_looks_itself_up(by: str) -> None:
    _, module = thinned(by)
    batch = padded_left(2)
    assert torch.equal(say(module, batch, num_beams=3), say(module, batch, num_beams=3, use_cache=False))
    if by == "attention":  # by the question, the first guess would be taken for a part of it
        alone = {name: value[:1] for name, value in batch.items()}
        assert torch.equal(say(module, alone), say(module, alone, prompt_lookup_num_tokens=2))  # cuts its cache back


@pytest.mark.parametrize("by", ["attention", "question"])
def test_a_talk_goes_on_from_its_cache(by: str) -> None:
    _, module = thinned(by)
    first = {name: value[:1] for name, value in make_miniature_batch("llava", 2).items()}
    done = module.generate(**first, max_new_tokens=4, do_sample=False, pad_token_id=PAD, eos_token_id=None, return_dict_in_generate=True)
    cache = done.past_key_values
    assert cache.get_seq_length() == 31 and cache.layers[-1].keys.shape[2] == 31 - 8
    longer = torch.cat([done.sequences, torch.tensor([[9, 30, 17]])], dim=1)
    ids = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    with torch.no_grad():
        found = say(module, ids, past_key_values=cache)
        if by == "attention":  # by the question, a talk read anew would be asked what was said last
            assert torch.equal(found, say(module, {**ids, "pixel_values": first["pixel_values"]}))
    assert found.shape[1] == longer.shape[1] + 10


@pytest.mark.parametrize("by", ["attention", "question"])
def test_a_talk_that_comes_to_images_later(by: str) -> None:
    """Words first, then an image, then another: each turn goes on from the cache of the one before."""
    _, module = thinned(by)
    images = torch.randn(2, 3, 32, 32)
    ids, cache, held = torch.tensor([[BOS, 9, 30, 17]]), None, 0
    for number in range(3):
        if number:
            ids = torch.cat([ids, torch.tensor([[*[IMAGE_TOKEN] * 16, 22, 31]])], dim=1)
        turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": cache}
        pixels = {"pixel_values": images[number - 1 : number]} if number else {}
        done = say(module, {**turn, **pixels}, return_dict_in_generate=True)
        ids, cache = done.sequences, done.past_key_values  # type: ignore[attr-defined]
        held += 8 * bool(number)
        assert cache.get_seq_length() == ids.shape[1] - 1 and cache.layers[1].keys.shape[2] == ids.shape[1] - 1 - held
    if by == "attention":
        prompt = ids[:, :-10]
        anew = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), "pixel_values": images}
        assert torch.equal(say(module, anew), ids)


def test_the_question_is_asked_once() -> None:
    """Without its memory, a model that reads all anew for every word would ask each time what it has said last."""
    differs = 0
    for seed in range(4):
        _, module = thinned("question", share=0.9, seed=seed)
        batch = padded_left(3, seed)
        kept, ids = say(module, batch), batch["input_ids"]
        for _ in range(10):
            taken = {"input_ids": ids, "pixel_values": batch["pixel_values"].clone(), "attention_mask": torch.cat(
                [batch["attention_mask"], torch.ones(3, ids.shape[1] - 28, dtype=torch.long)], dim=1)}  # fmt: skip
            with torch.no_grad():
                ids = torch.cat([ids, module(**taken).logits[:, -1:].argmax(-1)], dim=1)
        differs += not torch.equal(ids, kept)
    assert differs


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_row_of_attention_is_eagers(attention: str) -> None:
    plain, module = thinned("question", attention=attention)
    plain.set_attn_implementation("eager")
    batch = padded_left(3)
    ends = batch["attention_mask"].mul(torch.arange(28)).argmax(1)
    seen: list[Tensor] = []
    last = module.model.language_model.layers[1]
    handle = last.register_forward_pre_hook(lambda _, taken, named: seen.append(named["trimodal_reading"].here.places), with_kwargs=True)
    with torch.no_grad():
        row = plain(**batch, output_attentions=True).attentions[0].mean(1)[torch.arange(3), ends]
        module(**batch)
    handle.remove()
    media = batch["input_ids"] == IMAGE_TOKEN
    best = row.masked_fill(~media, -1).topk(8, dim=1).indices
    wanted = [sorted([*best[n].tolist(), *(~media[n]).nonzero()[:, 0].tolist()]) for n in range(3)]
    assert seen[0].tolist() == wanted


@pytest.mark.parametrize(("by", "rest"), WAYS)
def test_texts_with_unlike_numbers_of_images(by: str, rest: str) -> None:
    """One row with two images, one with one, one with none: as each alone."""
    _, module = thinned(by, rest)
    images = torch.randn(3, 3, 32, 32)
    words = [[9, 30], [17, 22, 31], list(range(5, 40))]
    rows = [[BOS, *[IMAGE_TOKEN] * 16, *words[0], *[IMAGE_TOKEN] * 16, *words[1]], [BOS, *[IMAGE_TOKEN] * 16, *words[1]], [BOS, *words[2]]]
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    mask = (ids != PAD).long()
    together = say(module, {"input_ids": ids, "attention_mask": mask, "pixel_values": images})
    assert torch.equal(together, say(module, {"input_ids": ids, "attention_mask": mask, "pixel_values": images}, use_cache=False))
    for number, (row, pixels) in enumerate(zip(rows, (images[:2], images[2:], None), strict=True)):
        alone = {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)}
        found = say(module, alone if pixels is None else {**alone, "pixel_values": pixels})
        assert torch.equal(found[0, len(row) :], together[number, length:])


def test_rows_are_filled_up_with_what_is_masked() -> None:
    marked = torch.tensor([[False, True, True, False], [False, False, False, True]])
    places, live = place_unmarked(marked)
    assert places.tolist() == [[0, 1, 3], [0, 1, 2]] and live.tolist() == [[True, False, True], [True] * 3]


@pytest.mark.parametrize("by", ["attention", "question"])
def test_copies_and_pickles(by: str) -> None:
    _, module = thinned(by)
    batch = make_miniature_batch("llava", 2)
    pickled = pickle.dumps(module)  # before it runs: then Transformers gives it hooks that cannot be pickled
    with torch.no_grad():
        wanted = module(**batch).logits
        for again in (copy.deepcopy(module), pickle.loads(pickled)):
            assert torch.equal(again(**batch).logits, wanted) and type(again).__name__ == "LlavaForConditionalGeneration"


def test_gradients_reach_the_tower() -> None:
    _, module = thinned("attention", "join")
    batch = make_miniature_batch("llava", 2)
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE_TOKEN, -100)
    module(**batch, labels=labels).loss.backward()
    reached = [parameter.grad for name, parameter in module.named_parameters() if "vision_tower.encoder.layers.0" in name]
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in reached)
    assert any(bool((grad != 0).any()) for grad in reached if grad is not None)


def test_a_cache_of_fixed_size_is_refused() -> None:
    for by in ("attention", "question"):
        _, module = thinned(by)
        with pytest.raises(TrimodalError, match=r"no cache of fixed size|the usual cache, DynamicCache"):
            say(module, padded_left(2), cache_implementation="static")


def make_other(kind: str) -> nn.Module:
    """LLaVAs of a tower without a class token, and of a decoder that norms its queries."""
    seeing, speaking = ("siglip_vision_model", "llama") if kind == "siglip" else ("clip_vision_model", kind)
    config = t.LlavaConfig(
        vision_config={**VISION, "model_type": seeing},
        text_config={**WORDS, "model_type": speaking, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128},
        image_token_index=IMAGE_TOKEN, vision_feature_select_strategy="full" if kind == "siglip" else "default",
    )  # fmt: skip
    torch.manual_seed(0)
    return t.LlavaForConditionalGeneration(config).eval()


@pytest.mark.parametrize("by", ["attention", "question"])
@pytest.mark.parametrize("kind", ["siglip", "qwen3", "gemma", "mistral"])
def test_other_towers_and_decoders(kind: str, by: str) -> None:
    module: Any = make_other(kind)
    edit = ThinTokens("image", 0.5, by, "discard", int(by == "question"))  # type: ignore[arg-type]
    layout = family_of(module).describe(module)
    assert layout.get_tower("image").handed == PATCHES
    edit.check_fits(module, layout)
    edit.apply_(module, layout)
    batch = padded_left(2)
    found = say(module, batch)
    assert torch.equal(found, say(module, batch, use_cache=False))


def make_listener() -> Any:
    """Qwen2-Audio, small."""
    config = t.Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4,
                      "encoder_ffn_dim": 64, "num_mel_bins": 16, "max_source_positions": 50},
        text_config={**WORDS, "model_type": "qwen2", "num_key_value_heads": 2, "max_position_embeddings": 128},
        audio_token_index=IMAGE_TOKEN,
    )  # fmt: skip
    torch.manual_seed(0)
    return t.Qwen2AudioForConditionalGeneration(config).eval()


def test_sounds_of_unlike_lengths_inside_of_a_decoder() -> None:
    """Of 25 tokens 13 are left, of 15 behind 10 of padding 7; the answers are those of each sound alone."""
    module = make_listener()
    inner = module.model
    blocks = list(inner.language_model.layers)
    thin_by_question_(inner, inner.language_model, blocks, "audio_token_id", QuestionThinning(0.5, "self_attn", "self_attn.q_proj"))
    frames = torch.tensor([[1] * 100, [1] * 60 + [0] * 40])
    sounds = {"input_features": torch.randn(2, 16, 100), "feature_attention_mask": frames}
    rows = [[BOS, *[IMAGE_TOKEN] * 25, 9, 30], [BOS, *[IMAGE_TOKEN] * 15, 17, 22]]
    ids = torch.tensor([[PAD] * (28 - len(row)) + row for row in rows])
    words = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
    found = module.generate(**words, **sounds, return_dict_in_generate=True, max_new_tokens=10, do_sample=False, eos_token_id=None)
    assert [layer.keys.shape[2] for layer in found.past_key_values.layers] == [28 + 9, 10 + 3 + 7 + 9]
    assert torch.equal(found.sequences, say(module, {**words, **{name: value.clone() for name, value in sounds.items()}}, use_cache=False))
    alone = {name: value[1:] for name, value in {**words, **sounds}.items()}
    assert torch.equal(say(module, alone)[0, 28:], found.sequences[1, 28:])


@pytest.mark.parametrize("by", ["attention", "question"])
def test_an_empty_cache_is_filled(by: str) -> None:
    _, module = thinned(by)
    batch, cache = make_miniature_batch("llava", 1), t.DynamicCache()
    with torch.no_grad():
        found = module(**batch, past_key_values=cache)
    assert found.past_key_values is cache and cache.get_seq_length() == 28 and cache.layers[1].keys.shape[2] == 20


def test_decoders_that_no_family_declares_yet() -> None:
    """The wrappers know no family: Idefics3 before its decoder, PaliGemma, of which the prompt looks both ways, inside of it."""
    words: dict[str, Any] = {**WORDS, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128}
    idefics: Any = t.Idefics3ForConditionalGeneration(t.Idefics3Config(
        vision_config=VISION, text_config={**words, "model_type": "llama"}, image_token_id=IMAGE_TOKEN, scale_factor=2,
    )).eval()  # fmt: skip
    mark_unread_(idefics.model.connector, TokenThinning(0.5, "diversity", "discard"))
    skip_marked_(idefics.model.text_model)
    pali: Any = t.PaliGemmaForConditionalGeneration(t.PaliGemmaConfig(
        vision_config={**VISION, "model_type": "siglip_vision_model", "vision_use_head": False, "projection_dim": 32},
        text_config={**words, "model_type": "gemma"}, image_token_index=IMAGE_TOKEN, projection_dim=32,
    )).eval()  # fmt: skip
    speaks = pali.model.language_model
    thin_by_question_(pali.model, speaks, list(speaks.layers), "image_token_id", QuestionThinning(0.5, "self_attn", "self_attn.q_proj"))
    for module, patches, pixels in ((idefics, 4, torch.randn(1, 1, 3, 32, 32)), (pali, 16, torch.randn(1, 3, 32, 32))):
        ids = torch.tensor([[BOS, *[IMAGE_TOKEN] * patches, 9, 30, 17]])
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
        found = say(module, batch, return_dict_in_generate=True)
        assert found.past_key_values.layers[-1].keys.shape[2] == 4 + patches // 2 + 9  # type: ignore[attr-defined]
        assert torch.equal(found.sequences, say(module, batch, use_cache=False))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("by", "rest"), WAYS)
def test_marks_are_seen_in_half_precision(by: str, rest: str) -> None:
    _, module = thinned(by, rest)
    batch = {name: value.bfloat16() if value.is_floating_point() else value for name, value in make_miniature_batch("llava", 2).items()}
    with torch.no_grad():
        found = module.bfloat16()(**batch)
    assert found.past_key_values.layers[1].keys.shape[2] == 20 and bool(found.logits.isfinite().all())

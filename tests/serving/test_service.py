"""The core, without a socket: answers, refusals, batches that change nothing, a queue that ends, deadlines, drain."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_files import make_png, make_wav

from trimodal.errors import InputError
from trimodal.networks.tiny import write_miniature
from trimodal.serving.limits import Limits
from trimodal.serving.refusals import RefusedError
from trimodal.serving.requests import Classes, Embedding, Item, Options, Text
from trimodal.serving.served_model import open_served
from trimodal.serving.service import Service


def ask(folder: Path, work: Callable[[Service, str], Awaitable[Any]], limits: Limits | None = None, **options: Any) -> Any:
    async def whole() -> Any:
        service = Service([open_served(folder, **options)], limits or Limits(), decoders=1)
        await service.start()
        try:
            return await work(service, service.list_models()[0].name)
        finally:
            await service.stop()

    return asyncio.run(whole())


def refusal(folder: Path, work: Callable[[Service, str], Awaitable[Any]], limits: Limits | None = None) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        ask(folder, work, limits)
    return refused.value


def test_vectors_are_those_of_the_model_itself(served_folders: dict[str, Path]) -> None:
    import torch
    from transformers import AutoTokenizer, BertModel

    async def embed(service: Service, name: str) -> list[Any]:
        return await service.answer(name, "embed", [Item(text="larger old"), Item(text="what")])

    found = ask(served_folders["bert"], embed)
    folder = served_folders["bert"]
    model, tokenizer = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        given = tokenizer(["larger old"], return_tensors="pt")
        states = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state[0]
    wanted = states.mean(0)
    assert isinstance(found[0], Embedding) and found[0].tokens == len(states)
    np.testing.assert_allclose(found[0].vector, (wanted / wanted.norm()).numpy(), atol=1e-4)


def test_images_of_a_request_are_bounded_together(served_folders: dict[str, Path]) -> None:
    async def embed(service: Service, name: str) -> list[Any]:
        first = await service.answer(name, "embed", [Item(image=make_png((10, 10)))] * 3 + [Item(text="a cat")])
        return [*first, *await service.answer(name, "embed", [Item(image=make_png((15, 10)))])]

    found = ask(served_folders["clip"], embed, Limits(request_pixels=250))
    assert [int(one.status) for one in found if isinstance(one, RefusedError)] == [413]
    assert sum(isinstance(one, Embedding) for one in found) == 4 and isinstance(found[-1], Embedding)


def test_no_more_files_are_unpacked_at_once_than_are_held(served_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    held, most = [0], [0]

    async def embed(service: Service, name: str) -> list[Any]:
        decode = service._decoders.decode
        make = service._models[name].make_jobs

        async def count(kind: str, data: bytes) -> Any:
            found = await decode(kind, data)  # type: ignore[arg-type]
            held[0] += 1
            most[0] = max(most[0], held[0])
            return found

        def let_go(loaded: Any, task: Any) -> Any:
            held[0] -= 1
            return make(loaded, task)

        monkeypatch.setattr(service._decoders, "decode", count)
        monkeypatch.setattr(type(service._models[name]), "make_jobs", lambda self, loaded, task: let_go(loaded, task))
        return await service.answer(name, "embed", [Item(image=make_png()) for _ in range(40)])

    assert len(ask(served_folders["clip"], embed)) == 40 and 1 <= most[0] <= 4


def test_answers_do_not_depend_on_who_asks_at_the_same_time(served_folders: dict[str, Path]) -> None:
    items = [Item(text=" ".join(["what"] * (n % 5 + 1))) for n in range(24)] + [Item(image=make_png(seed=n)) for n in range(6)]

    async def both(service: Service, name: str) -> tuple[list[Any], list[Any]]:
        alone = [(await service.answer(name, "embed", [item]))[0] for item in items]
        together = await asyncio.gather(*(service.answer(name, "embed", [item]) for item in items))
        return alone, [found[0] for found in together]

    alone, together = ask(served_folders["clip"], both)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.vector, other.vector, atol=1e-5)


def test_a_bad_item_hurts_no_other(served_folders: dict[str, Path]) -> None:
    items = [Item(image=make_png()), Item(image=b"junk"), Item(image=make_png((1, 1))), Item(text=" "), Item(image=make_png())]

    async def embed(service: Service, name: str) -> list[Any]:
        return await service.answer(name, "embed", items)

    found = ask(served_folders["clip"], embed)
    assert [isinstance(one, RefusedError) for one in found] == [False, True, False, True, False]
    np.testing.assert_array_equal(found[0].vector, found[4].vector)


def test_an_image_is_classified_by_texts(served_folders: dict[str, Path]) -> None:
    async def classify(service: Service, name: str) -> list[Any]:
        vectors = await service.answer(name, "embed", [Item(image=make_png()), Item(text="old"), Item(text="what")])
        found = await service.answer(name, "classify", [Item(image=make_png())], Options(labels=("old", "what")))
        return [vectors, found[0]]

    vectors, found = ask(served_folders["clip"], classify)
    assert isinstance(found, Classes)
    cosines = np.array([vectors[0].vector @ vectors[n].vector for n in (1, 2)])
    from transformers import CLIPModel

    scale = float(CLIPModel.from_pretrained(served_folders["clip"]).logit_scale.detach().exp())
    shares = np.exp(scale * cosines) / np.exp(scale * cosines).sum()
    assert dict(found.by_output["match"]) == pytest.approx({"old": shares[0], "what": shares[1]}, abs=1e-5)


def test_speech_is_what_the_model_generates(served_folders: dict[str, Path]) -> None:
    import torch
    from transformers import AutoProcessor, WhisperForConditionalGeneration

    async def speak(service: Service, name: str) -> tuple[Any, list[Any]]:
        whole = (await service.answer(name, "transcribe", [Item(audio=make_wav())], Options(max_tokens=6)))[0]
        return whole, [piece async for piece in service.stream(name, Item(audio=make_wav()), Options(max_tokens=6))]

    whole, pieces = ask(served_folders["whisper"], speak)
    folder = served_folders["whisper"]
    model, processor = WhisperForConditionalGeneration.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    wave = (0.5 * np.sin(np.arange(8000) / 30)).astype(np.float32)
    given = processor.feature_extractor(wave, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        said = model.generate(input_features=given, max_new_tokens=6, do_sample=False)
    assert isinstance(whole, Text)
    assert whole.text == processor.tokenizer.decode(said[0], skip_special_tokens=True)
    assert "".join(pieces[:-1]) == whole.text and pieces[-1] == whole


def test_what_is_said_counts_as_computed(served_folders: dict[str, Path]) -> None:
    async def speak(service: Service, name: str) -> Any:
        await service.answer(name, "transcribe", [Item(audio=make_wav())], Options(max_tokens=6))
        return service.count(name)

    found = ask(served_folders["whisper"], speak)
    assert found["compute"] > 0 and found["batches"] == found["samples"] == found["items"] == 1


def test_how_long_vectors_are_is_known_before_one_is_made(served_folders: dict[str, Path]) -> None:
    async def embed(service: Service, name: str) -> tuple[int | None, int]:
        width = service.find_model(name).width
        with pytest.raises(RefusedError, match=f"it has {width}"):
            await service.answer(name, "embed", [Item(text="old")], Options(dimensions=7))
        return width, len((await service.answer(name, "embed", [Item(text="old")], Options(dimensions=width)))[0].vector)

    for name, options in (("clip", {}), ("bert", {}), ("bert", {"runtime": "torch"})):
        width, found = ask(served_folders[name], embed, **options)
        assert width == found
    assert open_served(served_folders["whisper"]).card.width is None


def test_what_a_model_does_not_take_is_not_passed_over(served_folders: dict[str, Path]) -> None:
    async def embed(service: Service, name: str) -> Any:
        return (await service.answer(name, "embed", [Item(text="old", image=make_png())]))[0]

    refused = ask(served_folders["bert"], embed)
    assert isinstance(refused, RefusedError) and int(refused.status) == 400 and "takes text, not image" in str(refused)


def test_a_question_that_is_too_long_is_refused_where_a_text_for_a_vector_is_cut(
    served_folders: dict[str, Path], tmp_path: Path
) -> None:
    async def say(service: Service, name: str) -> list[Any]:
        return await service.answer(name, "ask", [Item(text="what " * 300), Item(text="what is old")], Options(max_tokens=2))

    refused, text = ask(write_miniature("llama", tmp_path / "llama"), say)
    assert isinstance(refused, RefusedError) and int(refused.status) == 400 and "302 tokens; llama takes 32" in str(refused)
    assert isinstance(text, Text) and text.tokens == 2

    async def embed(service: Service, name: str) -> Any:
        return (await service.answer(name, "embed", [Item(text="what " * 300)]))[0]

    found = ask(served_folders["bert"], embed)
    assert isinstance(found, Embedding) and found.tokens == 32


def test_an_answer_ends_where_the_model_was_not_made_for_more(tmp_path: Path) -> None:
    """The miniature has 32 places; whatever it says, prompt and answer have no more."""

    async def say(service: Service, name: str) -> Text:
        found = (await service.answer(name, "ask", [Item(text="old what")], Options(max_tokens=200)))[0]
        assert isinstance(found, Text)
        return found

    folder = write_miniature("llama", tmp_path / "llama")
    settings = json.loads((folder / "generation_config.json").read_text()) if (folder / "generation_config.json").is_file() else {}
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": None}))
    found = ask(folder, say)
    assert found.tokens <= 32 - found.prompt_tokens


def test_a_long_sound_is_heard_to_its_end(served_folders: dict[str, Path]) -> None:
    """The miniature hears a moment at once; the same moment twice says the same thing twice."""

    async def speak(service: Service, name: str) -> tuple[int, int, list[Any]]:
        heard = service._models[name]._heard_seconds
        assert heard
        short, long = Item(audio=make_wav(heard)), Item(audio=make_wav(2.5 * heard))
        options = Options(max_tokens=4)
        one, three = [await service.answer(name, "transcribe", [item], options) for item in (short, long)]
        pieces = [piece async for piece in service.stream(name, long, options)]
        assert "".join(pieces[:-1]) == three[0].text == pieces[-1].text
        return one[0].tokens, three[0].tokens, pieces

    one, three, _ = ask(served_folders["whisper"], speak)
    assert three == 3 * one


def test_torch_answers_where_nothing_was_exported(served_folders: dict[str, Path]) -> None:
    async def embed(service: Service, name: str) -> Any:
        return service.find_model(name).runtime, (await service.answer(name, "embed", [Item(text="old what")]))[0]

    runtime, found = ask(served_folders["bert"], embed, runtime="torch")
    other, expected = ask(served_folders["bert"], embed)
    assert (runtime, other) == ("torch", "onnxruntime")
    np.testing.assert_allclose(found.vector, expected.vector, atol=1e-5)


def test_requests_that_cannot_be_are_refused_in_words(served_folders: dict[str, Path]) -> None:
    image = Item(image=make_png())
    cases: list[tuple[str, Callable[[Service, str], Awaitable[Any]], int]] = [
        ("no model", lambda s, n: s.answer("nobody", "embed", [image]), 404),
        ("does not", lambda s, n: s.answer(n, "transcribe", [image]), 400),
        ("nothing", lambda s, n: s.answer(n, "embed", []), 400),
        ("labels", lambda s, n: s.answer(n, "classify", [image]), 400),
        ("at most", lambda s, n: s.answer(n, "embed", [image] * 300), 413),
        ("more than 0", lambda s, n: s.answer(n, "embed", [image], seconds=-1.0), 400),
        ("no component", lambda s, n: s.infer(n, "nothing", {}), 404),
        ("is missing", lambda s, n: s.infer(n, "vision_model", {}), 400),
        ("no input", lambda s, n: s.infer(n, "vision_model", {"x": np.zeros((1, 1))}), 400),
        ("float64", lambda s, n: s.infer(n, "vision_model", {"pixel_values": np.zeros((1, 3, 32, 32))}), 400),
        ("shape", lambda s, n: s.infer(n, "vision_model", {"pixel_values": np.zeros((1, 3, 31, 32), np.float32)}), 400),
        ("finite", lambda s, n: s.infer(n, "vision_model", {"pixel_values": np.full((1, 3, 32, 32), np.nan, np.float32)}), 400),
        ("nothing", lambda s, n: s.infer(n, "vision_model", {"pixel_values": np.zeros((0, 3, 32, 32), np.float32)}), 400),
    ]

    async def all_of_them(service: Service, name: str) -> None:
        for words, work, status in cases:
            with pytest.raises(RefusedError, match=words) as refused:
                await work(service, name)
            assert int(refused.value.status) == status, words
        assert isinstance((await service.answer(name, "embed", [image]))[0], Embedding)

    ask(served_folders["clip"], all_of_them)


def test_a_full_queue_says_when_to_come_again(served_folders: dict[str, Path]) -> None:
    async def flood(service: Service, name: str) -> list[Any]:
        asked = [service.answer(name, "embed", [Item(text="old")]) for _ in range(40)]
        return await asyncio.gather(*asked, return_exceptions=True)

    found = ask(served_folders["bert"], flood, Limits(queue=8))
    refused = [one for one in found if isinstance(one, RefusedError)]
    assert len(refused) == 40 - 7  # each costs 1 and its characters
    assert all(int(one.status) == 429 and one.retry_after and 1 <= one.retry_after <= 60 for one in refused)


def test_nobody_waits_longer_than_was_said(served_folders: dict[str, Path]) -> None:
    refused = refusal(served_folders["whisper"], lambda s, n: s.answer(n, "transcribe", [Item(audio=make_wav())], seconds=1e-6))
    assert int(refused.status) == 504


def test_what_is_under_way_is_answered_before_the_end(served_folders: dict[str, Path]) -> None:
    async def whole() -> tuple[Any, bool]:
        service = Service([open_served(served_folders["clip"])], decoders=1)
        await service.start()
        asked = asyncio.create_task(service.answer("clip", "embed", [Item(image=make_png())] * 8))
        await asyncio.sleep(0)
        await service.stop()
        return await asked, service.ready

    found, ready = asyncio.run(whole())
    assert all(isinstance(one, Embedding) for one in found) and not ready


def test_a_client_that_has_gone_is_not_worked_for(served_folders: dict[str, Path]) -> None:
    async def leave(service: Service, name: str) -> float:
        asked = [asyncio.create_task(service.answer(name, "embed", [Item(text="old " * n)])) for n in range(1, 30)]
        await asyncio.sleep(0)
        for task in asked[1:]:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await service.answer(name, "embed", [Item(text="what")])
        return service.count(name)["samples"]

    assert ask(served_folders["bert"], leave) <= 4


def test_two_models_of_one_name_are_refused(served_folders: dict[str, Path]) -> None:
    model = open_served(served_folders["bert"])
    with pytest.raises(InputError, match="two models"):
        Service([model, model])

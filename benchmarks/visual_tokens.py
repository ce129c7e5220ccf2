"""How much faster a LLaVA reads an image and a question with half of the visual tokens gone, and what that does to its answers.

`python -m benchmarks.visual_tokens` has two parts.

*Speed*: a LLaVA as wide as the 7B one (CLIP's ViT-L at 336 pixels, 576 patches; a decoder 4096 wide with an MLP of 11008) with 2 of its 32
decoder blocks and 3 of its 24 vision blocks, of which the last is idle as there, random weights, float32, one thread. The prompt is made by
the stock processor. In every round each row runs once, in turn: as it was, a copy that is as it was too (what they differ by is noise), and
the copies with half of the tokens gone. Time is that of the whole prefill, vision included, with the scores of the last token. The ratio is
taken within a round, and the median over the rounds counts; that of processor time beside it leaves out waiting for the processor. The
vision tower's part of the work is larger here than in the whole model.

*Answers*: no trained LLaVA is small enough to be kept here. So a miniature is trained in a minute or two: a drawn digit on 16 of the 64
patches of a noisy picture, and the question which it is. What counts is how often the answer is that of the model with all tokens, by every
way of choosing, against a choice at random, the trivial baseline. It is a toy: all it says of real pictures is that the way of choosing
matters where most of a picture is background.

`generate` is compared with a cache and without, greedy and with beams.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.passlines import PassLine, finish, table
from benchmarks.tinyllava import QUESTION, answer, draw_pictures, train_reader

SHARE, LEAST = 0.5, 1.5
PLAIN, SAME, RANDOM = "as it was", "as it was (noise)", "at random (mean of 3)"
ROWS: Mapping[str, dict[str, Any]] = {
    "by attention": {}, "by diversity": {"by": "diversity"}, "by the question, after 1 of 2 blocks": {"by": "question", "block": 1},
}  # fmt: skip
DECIDE = ("by attention", "by diversity")
WORDS = "what is this thing here and why is it so " * 3
SHARES = (0.5, 0.75, 0.9)
WAYS: Mapping[str, dict[str, Any]] = {
    "attention": {}, "attention, joined": {"rest": "join"}, "attention, context": {"rest": "context"},
    "diversity": {"by": "diversity"}, "norm": {"by": "norm"}, "the question, after 1 block": {"by": "question", "block": 1},
}  # fmt: skip


def make_wide_llava() -> tuple[Any, dict[str, Any]]:
    """The model as it was, and a prompt of the stock processor's."""
    import numpy as np
    import torch
    import transformers as t
    from PIL import Image
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from trimodal.loading.load import build_model
    from trimodal.networks.tiny import IMAGE_TOKEN, make_tokenizer

    torch.manual_seed(0)
    size = {"height": 336, "width": 336}
    config = t.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 3,
                       "num_attention_heads": 16, "image_size": 336, "patch_size": 14},
        text_config={"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 2,
                     "num_attention_heads": 32, "vocab_size": 1000, "max_position_embeddings": 4096},
        image_token_index=IMAGE_TOKEN, image_seq_length=576,
    )  # fmt: skip
    processor = t.LlavaProcessor(
        CLIPImageProcessorPil(size=size, crop_size=size), make_tokenizer(), patch_size=14, vision_feature_select_strategy="default",
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (336, 336, 3), dtype=np.uint8))
    inputs = processor(images=picture, text=f"<image>\n{WORDS}", return_tensors="pt")
    return build_model(t.LlavaForConditionalGeneration(config).eval(), "llava-7b-wide"), dict(inputs)


def thin(model: Any, share: float = SHARE, by: str = "attention", rest: str = "discard", block: int = 0) -> Any:
    """A copy of the model that reads fewer tokens of an image, as one is that was loaded, and has its weights in common with it."""
    from trimodal.edits import ThinTokens

    module = copy.deepcopy(model.module, {id(weight): weight for weight in model.module.parameters()})
    ThinTokens("image", share, by, rest, block).apply_(module, model.layout)  # type: ignore[arg-type]
    return replace(model, module=module)


@dataclass
class Prefills:
    """Wall and processor seconds of a row's prefills, round by round, and how many tokens the decoder's last block reads."""

    wall: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)
    read: int = 0

    def time(self, module: Any, inputs: Mapping[str, Any]) -> None:
        def see(_: Any, taken: tuple[Any, ...]) -> None:
            self.read = taken[0].shape[1]

        handle = module.model.language_model.layers[-1].register_forward_pre_hook(see)
        start, used = time.perf_counter(), time.process_time()
        module(**inputs, logits_to_keep=1)
        self.wall.append(time.perf_counter() - start)
        self.used.append(time.process_time() - used)
        handle.remove()


def time_prefills(models: Mapping[str, Any], inputs: Mapping[str, Any], rounds: int) -> dict[str, Prefills]:
    """Prefills by row; the order turns from round to round."""
    import torch

    found = {name: Prefills() for name in models}
    with torch.inference_mode():
        models[PLAIN].module(**inputs, logits_to_keep=1)  # for warming up
        for number in range(rounds):
            for name in list(models)[:: -1 if number % 2 else 1]:
                found[name].time(models[name].module, inputs)
    return found


def generates_alike(model: Any, inputs: Mapping[str, Any], tokens: int, **options: Any) -> bool:
    """Whether `generate` says the same with a cache and without."""
    import torch

    how = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **options}
    said = [model.module.generate(**inputs, use_cache=cached, **how) for cached in (True, False)]
    return torch.equal(*said)


def divide(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """How many times as fast, round by round."""
    return [one / other for one, other in zip(before, after, strict=True)]


def measure_speed(rounds: int) -> list[PassLine]:
    original, inputs = make_wide_llava()
    models = {PLAIN: original, SAME: thin(original, share=0.0)}
    models |= {name: thin(original, **how) for name, how in ROWS.items()}
    found = time_prefills(models, inputs, rounds)
    rows, ratios = [], {}
    for name, one in found.items():
        wall, used = divide(found[PLAIN].wall, one.wall), divide(found[PLAIN].used, one.used)
        ratios[name] = statistics.median(wall)
        took, spread = f"{statistics.median(one.wall):.2f}", f"{min(wall):.2f} to {max(wall):.2f}"
        rows.append((name, str(one.read), took, f"{ratios[name]:.2f}", spread, f"{statistics.median(used):.2f}"))
    print(f"\n{inputs['input_ids'].shape[1]} tokens of which 576 are patches, {rounds} rounds\n")
    columns = ("half of the visual tokens gone", "tokens in the last block", "seconds", "times as fast", "from, to", "processor time")
    print(table(columns, rows), flush=True)
    alike = generates_alike(models["by attention"], inputs, 2)
    return [
        *(PassLine(f"prefill times as fast, {name}", ratios[name], least=LEAST) for name in DECIDE),
        PassLine("wide: generate with cache equals generate without", float(alike), least=1),
    ]


@contextmanager
def choosing_at_random() -> Iterator[None]:
    """Meanwhile the strongest tokens are any."""
    from trimodal.maths import token_choice

    own = token_choice.choose_strongest
    token_choice.choose_strongest = lambda scores, keep: own(scores.new_empty(scores.shape).uniform_(), keep)
    try:
        yield
    finally:
        token_choice.choose_strongest = own


def compare(said: Sequence[int], others: Sequence[int]) -> float:
    """The share of answers that are the same."""
    return statistics.mean(float(one == other) for one, other in zip(said, others, strict=True))


def measure_answers() -> list[PassLine]:
    import torch

    torch.manual_seed(0)
    model, processor = train_reader()
    pictures, digits = draw_pictures(600, seed=7)
    whole = answer(model.module, processor, pictures)
    rows, agreed = [], {}
    for share in SHARES:
        said = {name: [answer(thin(model, share, **how).module, processor, pictures)] for name, how in WAYS.items()}
        with choosing_at_random():
            said[RANDOM] = [answer(thin(model, share, by="norm").module, processor, pictures) for _ in range(3)]
        for name, answers in said.items():
            agreed[name, share] = statistics.mean(compare(one, whole) for one in answers)
            right = statistics.mean(compare(one, digits) for one in answers)
            rows.append((f"{share:.0%}", name, f"{agreed[name, share]:.1%}", f"{right:.1%}"))
    print(f"\nMiniature that reads digits, right with all 64 patches: {compare(whole, digits):.1%} of 600; '{QUESTION}'\n")
    print(table(("gone", "chosen by", "answers as with all", "right"), rows), flush=True)
    inputs = processor(images=pictures[:4], text=[f"<image>\n{QUESTION}"] * 4, return_tensors="pt")
    alike = all(generates_alike(thin(model), inputs, 12, num_beams=beams) for beams in (1, 3))
    return [
        *(PassLine(f"half gone by {name}: agreement above that of a random choice", agreed[name, SHARE] - agreed[RANDOM, SHARE], least=0.0)
          for name in ("attention", "diversity")),
        PassLine("miniature: generate with cache equals generate without, greedy and beams", float(alike), least=1),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the speed part")
    parser.add_argument("--part", choices=("speed", "answers", "both"), default="both")
    chosen = parser.parse_args()
    import torch

    from trimodal.verification.footprint import detect_machine

    torch.set_num_threads(1)
    machine = detect_machine()
    print(f"{machine.processor}, {machine.instructions}; PyTorch runs {torch.backends.cpu.get_cpu_capability()}, one thread")
    lines = [*(measure_speed(chosen.rounds) if chosen.part != "answers" else []), *(measure_answers() if chosen.part != "speed" else [])]
    print()
    finish(lines)


if __name__ == "__main__":
    main()

"""A LLaVA small enough to be trained in a minute or two: it says which digit is drawn somewhere on a noisy picture.

Pictures are 56 × 56, of which a drawn digit takes 28 × 28, 16 patches of 7 × 7 anywhere; the other 48 of the 64 tokens show noise.
The trained weights lie in a cache that git ignores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.drawndigits import CACHE, draw

QUESTION = "what is this ?"
SIDE, PATCH, DIGIT = 56, 7, 28
STEPS, BATCH, LEARNING_RATE = 1200, 32, 1.5e-3


def draw_pictures(count: int, seed: int) -> tuple[list[Image.Image], list[int]]:
    """So many pictures in RGB, and the digit on each."""
    drawn, digits = draw(count, seed)
    chance = torch.Generator().manual_seed(seed)
    plates = torch.rand(count, SIDE, SIDE, generator=chance) * 60
    for number, (row, column) in enumerate((torch.randint(0, (SIDE - DIGIT) // PATCH + 1, (count, 2), generator=chance) * PATCH).tolist()):
        here = plates[number, row : row + DIGIT, column : column + DIGIT]
        here.copy_(torch.maximum(here, drawn[number].float()))
    pixels = plates.round().to(torch.uint8)[..., None].expand(-1, -1, -1, 3)
    return [Image.fromarray(picture.numpy().copy()) for picture in pixels], digits.tolist()


def make_reader() -> tuple[Any, Any]:
    """The untrained model and its processor, Transformers' own."""
    import transformers as t
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from trimodal.networks.tiny import IMAGE_TOKEN, VOCABULARY, make_tokenizer

    torch.manual_seed(0)
    size = {"height": SIDE, "width": SIDE}
    config = t.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3,
                       "num_attention_heads": 4, "image_size": SIDE, "patch_size": PATCH},
        text_config={"model_type": "llama", "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "vocab_size": VOCABULARY, "max_position_embeddings": 256},
        image_token_index=IMAGE_TOKEN, image_seq_length=(SIDE // PATCH) ** 2,
    )  # fmt: skip
    processor = t.LlavaProcessor(
        CLIPImageProcessorPil(size=size, crop_size=size), make_tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default",
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    return t.LlavaForConditionalGeneration(config), processor


def prompt_of(processor: Any, pictures: list[Image.Image]) -> dict[str, Tensor]:
    """Pictures (n, 3, 56, 56) and the question (n, tokens), as the processor makes them, without the end of the text."""
    found = processor(images=pictures, text=[f"<image>\n{QUESTION}"] * len(pictures), return_tensors="pt")
    return {name: value if name == "pixel_values" else value[:, :-1] for name, value in found.items()}


def score_digits(module: Any, batch: dict[str, Tensor]) -> Tensor:
    """Scores (n, 10) of the words that stand for digits, the first ten of the vocabulary, behind the question."""
    from trimodal.networks.tiny import SPECIAL

    scores: Tensor = module(**batch, logits_to_keep=1).logits[:, -1, len(SPECIAL) : len(SPECIAL) + 10]
    return scores


def answer(module: Any, processor: Any, pictures: list[Image.Image]) -> list[int]:
    """The digit that the model says of each picture."""
    with torch.inference_mode():
        batch = prompt_of(processor, pictures)
        parts = [score_digits(module, {name: value[at] for name, value in batch.items()}) for at in torch.arange(len(pictures)).split(100)]
    return [int(digit) for digit in torch.cat(parts).argmax(dim=1)]


def train_reader(cached: Path = CACHE) -> tuple[Any, Any]:
    """The trained model, as trimodal has it, and its processor."""
    from trimodal.loading.load import build_model

    module, processor = make_reader()
    kept = cached / f"tinyllava-{STEPS}.pt"
    if kept.is_file():
        module.load_state_dict(torch.load(kept, weights_only=True))
    else:
        _train(module, processor)
        cached.mkdir(exist_ok=True)
        torch.save(module.state_dict(), kept)
    return build_model(module.eval(), "tinyllava"), processor


def _train(module: Any, processor: Any) -> None:
    pictures, digits = draw_pictures(8000, seed=1)
    batch, target = prompt_of(processor, pictures), torch.tensor(digits)
    chance = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:  # what Transformers begins with is so small that nothing of a picture comes through at first
            if "embed" in name:
                torch.nn.init.normal_(parameter, std=0.1)
            else:
                torch.nn.init.xavier_uniform_(parameter.data.view(len(parameter), -1))
    module.train()
    for _ in range(STEPS):
        at = torch.randint(len(target), (BATCH,), generator=chance)
        loss = torch.nn.functional.cross_entropy(score_digits(module, {name: value[at] for name, value in batch.items()}), target[at])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()

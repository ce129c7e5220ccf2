"""`python -m trimodal_tally FOLDER` trains a small model to tell animals from things, and writes it and its data."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trimodal_tally.network import TallyConfig, TallyModel

ANIMALS, THINGS = ("cat", "dog", "bird", "fish", "horse"), ("house", "car", "boat", "chair", "lamp")
OTHERS = ("a", "the", "red", "small", "old", "sees", "near", "and", "big", "my")


def make_lines(count: int) -> list[tuple[int, str]]:
    """A class and a text each: 1 where the text names an animal."""
    chance = random.Random(0)
    found = []
    for number in range(count):
        words = [*chance.choices(OTHERS, k=4), chance.choice(ANIMALS if number % 2 else THINGS)]
        chance.shuffle(words)
        found.append((number % 2, " ".join(words)))
    return found


def main() -> None:
    """Write FOLDER/model and FOLDER/lines.tsv."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    lines = make_lines(200)
    (folder / "lines.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in lines), encoding="utf-8")
    known = {word: number for number, word in enumerate(("[PAD]", "[UNK]", *ANIMALS, *THINGS, *OTHERS))}
    words = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(0)
    model = TallyModel(TallyConfig(vocab_size=len(known)))
    inputs, truth = tokenizer([text for _, text in lines], return_tensors="pt", padding=True), torch.tensor([label for label, _ in lines])
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(inputs["input_ids"], inputs["attention_mask"]).logits, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


if __name__ == "__main__":
    main()

"""The character model that `benchmarks.charlm` compresses: its text, its training, its loss.

A Llama-like decoder of 3.2 million parameters from Transformers' own configuration, trained here on the sources of
Python's standard library (code, docstrings, the language reference in `pydoc_data`). Files are parted once, by a fixed
seed, into training text, calibration text and held-out text; no file is in two of them. The trained model is an
ordinary model folder with a tokenizer of single characters, kept in a cache that git ignores.
"""

from __future__ import annotations

import json
import math
import random
import string
import sysconfig
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

CACHE = Path(".cache")
WINDOW = 256
TRAINING_CHARACTERS, CALIBRATION_CHARACTERS, HELD_OUT_CHARACTERS = 5_000_000, 800_000, 205_000
STEPS, BATCH, LEARNING_RATE = 900, 8, 2e-3
SPECIAL = ("<pad>", "<unknown>")
ALPHABET = (*SPECIAL, "\n", *string.ascii_letters, *string.digits, *string.punctuation, " ")
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "__pycache__"}


@dataclass(frozen=True)
class Texts:
    """Text by use, each out of other files."""

    training: str
    calibration: str
    held_out: str
    files: dict[str, int]


@cache
def texts() -> Texts:
    """The standard library's sources, parted by file."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [file for file in sorted(root.rglob("*.py")) if not _SKIPPED & set(file.relative_to(root).parts)]
    random.Random(0).shuffle(files)
    wanted = {
        "held_out": HELD_OUT_CHARACTERS,
        "calibration": CALIBRATION_CHARACTERS,
        "training": TRAINING_CHARACTERS,
    }
    parts: dict[str, list[str]] = {use: [] for use in wanted}
    for file in files:
        use = next((use for use, limit in wanted.items() if sum(map(len, parts[use])) < limit), None)
        if use is None:
            break
        # No single file may make up a tenth of the held-out or calibration text.
        parts[use].append(_readable(file)[: wanted[use] // 10])
    joined = {use: "\n".join(part)[: wanted[use]] for use, part in parts.items()}
    return Texts(joined["training"], joined["calibration"], joined["held_out"], {u: len(p) for u, p in parts.items()})


def _readable(file: Path) -> str:
    """The file's text with spaces for tabs; what is not in the alphabet is left out."""
    known = set(ALPHABET[len(SPECIAL) :])
    text = file.read_text(encoding="utf-8", errors="replace").expandtabs(4)
    return "".join(character for character in text if character in known)


def windows(text: str) -> list[str]:
    """Non-overlapping pieces of `WINDOW` characters; a shorter rest is left out."""
    return [text[start : start + WINDOW] for start in range(0, len(text) - WINDOW + 1, WINDOW)]


def encoded(pieces: list[str]) -> Tensor:
    """Character numbers (pieces, `WINDOW`)."""
    import torch

    numbers = {character: number for number, character in enumerate(ALPHABET)}
    return torch.tensor([[numbers[character] for character in piece] for piece in pieces])


def folder(seed: int, cached: Path = CACHE) -> Path:
    """The trained model's folder; trains it first if it is not there."""
    here = cached / f"charlm-{seed}"
    if not (here / "training.json").is_file():
        _train(seed, here)
    return here


def _train(seed: int, here: Path) -> None:
    import torch
    import transformers
    from torch.nn.functional import cross_entropy

    from trimodal.training.batchwise import train_on_batches
    from trimodal.training.settings import EngineSettings
    from trimodal.training.steps import StepRecord

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(ALPHABET), hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=WINDOW, tie_word_embeddings=False, pad_token_id=0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    data = encoded([texts().training])[0]
    chance = torch.Generator().manual_seed(seed)

    def batch(number: int) -> Tensor:
        starts = torch.randint(0, len(data) - WINDOW, (BATCH,), generator=chance)
        return torch.stack([data[start : start + WINDOW] for start in starts.tolist()])

    def loss(module: nn.Module, ids: Tensor) -> Tensor:
        scores = module(input_ids=ids, use_cache=False).logits[:, :-1]
        return cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten())

    def tell(record: StepRecord) -> None:
        if record.step % 100 == 0:
            bits = record.loss / math.log(2)
            print(f"step {record.step} of {STEPS}: {bits:.3f} bits per character, "
                  f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip

    start = time.perf_counter()
    settings = EngineSettings(STEPS, learning_rate=LEARNING_RATE, weight_decay=0.1, seed=seed)
    records = train_on_batches(model, batch, loss, settings, on_step=tell)
    model.save_pretrained(here)
    _tokenizer().save_pretrained(here)
    last = sum(record.loss for record in records[-50:]) / 50 / math.log(2)
    told = {
        "seed": seed, "steps": STEPS, "characters_seen": STEPS * BATCH * WINDOW, "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - start), "bits_per_character_last_50_steps": round(last, 4),
        "parameters": model.num_parameters(), "files": texts().files,
    }  # fmt: skip
    (here / "training.json").write_text(json.dumps(told, indent=1) + "\n")


def _tokenizer() -> object:
    """One token per character."""
    import transformers
    from tokenizers import Tokenizer, decoders, models

    inner = Tokenizer(models.BPE({character: number for number, character in enumerate(ALPHABET)}, [],
                                 unk_token=SPECIAL[1]))  # fmt: skip
    inner.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=SPECIAL[0], unk_token=SPECIAL[1], model_max_length=WINDOW
    )


def bits(module: nn.Module, ids: Tensor, batch: int = 32) -> Tensor:
    """Mean bits per predicted character of each window (windows,): the cross entropy to base 2."""
    import torch
    from torch.nn.functional import cross_entropy

    found = []
    with torch.inference_mode():
        for part in ids.split(batch):
            scores = module(input_ids=part, use_cache=False).logits[:, :-1].float()
            loss = cross_entropy(scores.transpose(1, 2), part[:, 1:], reduction="none")
            found.append(loss.mean(dim=1) / math.log(2))
    return torch.cat(found)


def main() -> None:
    """Train the models of the seeds given, so that the benchmark finds them."""
    import sys

    for seed in map(int, sys.argv[1:] or ["0"]):
        print((folder(seed) / "training.json").read_text(), end="", flush=True)


if __name__ == "__main__":
    main()

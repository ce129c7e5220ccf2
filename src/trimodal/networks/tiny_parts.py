"""How large miniatures are, the words that they know, and what they are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

WORDS = tuple(
    "a the of and in on one two three four red green blue small large old cat dog bird fish house tree car boat sings "  # noqa: SIM905
    "runs sleeps jumps under over near behind what is this sound picture loud quiet add them which larger difference"
    .split()
)  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]", "<image>")
PAD, BOS, EOS, IMAGE_TOKEN = 0, 2, 3, 4
VOCABULARY = len(SPECIAL) + len(WORDS)
IMAGE_SIZE, PATCH, RATE, SAMPLES = 32, 8, 16000, 8000
BLOCKS: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
VISION: dict[str, Any] = {**BLOCKS, "image_size": IMAGE_SIZE, "patch_size": PATCH}
TEXT_SIZES: dict[str, Any] = {
    **BLOCKS, "vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
    "max_position_embeddings": 32,
}  # fmt: skip


@dataclass(frozen=True)
class Miniature:
    """One kind of small model: `make` gives it, `batch` keyword arguments of its forward for so many samples, `processors` what is
    saved beside it."""

    make: Callable[[], nn.Module]
    batch: Callable[[int, torch.Generator], dict[str, Tensor]]
    processors: Callable[[], Sequence[Any]] = field(default=tuple)


def make_word_batch(n: int, random: torch.Generator) -> dict[str, Tensor]:
    """Ids int64 (n, 12) that begin with BOS and end with EOS; every other row is padded by three."""
    ids = torch.randint(len(SPECIAL), VOCABULARY, (n, 12), generator=random)
    mask = torch.ones_like(ids)
    ids[:, 0], ids[:, -1] = BOS, EOS
    ids[1::2, -4], ids[1::2, -3:], mask[1::2, -3:] = EOS, PAD, 0
    return {"input_ids": ids, "attention_mask": mask}


def prepend_image_tokens(
    words: Mapping[str, Tensor], count: int = (IMAGE_SIZE // PATCH) ** 2, token: int = IMAGE_TOKEN
) -> dict[str, Tensor]:
    """The words, ids and mask (n, tokens), with `count` placeholders behind the first: by default as many as there are patches."""
    ids, mask = words["input_ids"], words["attention_mask"]
    image = torch.full((len(ids), count), token)
    return {
        "input_ids": torch.cat([ids[:, :1], image, ids[:, 1:]], dim=1),
        "attention_mask": torch.cat([mask[:, :1], torch.ones_like(image), mask[:, 1:]], dim=1),
    }


def make_tokenizer(*more: str, **names: str) -> Any:
    """A word-level tokenizer of `WORDS` that puts BOS and EOS around every text; `more` are special tokens with the ids behind the
    words, `names` attributes under which it tells tokens, such as `image_token`."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS, *more))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    core.add_special_tokens([AddedToken(word, special=True) for word in (*SPECIAL, *more)])
    core.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", BOS), ("[EOS]", EOS)]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]",
        model_input_names=["input_ids", "attention_mask"], **({"extra_special_tokens": names} if names else {}),
    )  # fmt: skip

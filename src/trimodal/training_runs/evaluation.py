"""How good the model is on samples that it is not trained with, while it is trained and at the end: numbers by name.

    loss                          the task's own, over all labels
    image_accuracy, …             of every output with labels, Dice and IoU of masks, and retrieval both ways:
                                  `verification/measuring.py`, so what `trimodal verify` would say
    token_accuracy                of text: share of the next tokens that are ranked first, the right ones before them given
    answer_accuracy               of `generate` with targets: share of those that greedy decoding says to the end
    word_error_rate               of `transcribe`: greedy decoding against the transcript, percent
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimodal.core import Sample
from trimodal.data import group_by_modality
from trimodal.models.encoding import get_processor
from trimodal.models.foreign import run_foreign
from trimodal.models.model import Model
from trimodal.training.objective import IGNORED, Batch, Objective, select_inputs, split_labels
from trimodal.training.speaking import count_frames, find_speaking_kind
from trimodal.verification.measuring import measure_model
from trimodal.verification.words import compute_word_error_rate

_TRANSCRIBED = 64  # samples that are decoded per evaluation, at most: word by word, which takes long
_LONGEST = 64  # tokens
_PROMPT = 8  # tokens that a decoder is given before it speaks, at most
_TEXT_TASKS = ("transcribe", "generate")


@dataclass(frozen=True)
class Evaluation:
    """Numbers by name of `model` on `samples`, at most `part` at once."""

    model: Model
    objective: Objective
    samples: Sequence[Sample]
    part: int
    seed: int = 0

    def __call__(self) -> dict[str, float]:
        """Measure; the module is left in eval mode."""
        self.model.module.eval()
        found = self._measure_loss()
        if self.objective.name in ("classify", "retrieve", "segment"):
            metrics = measure_model(self.model, self.samples, batch_size=max(8, self.part), seed=self.seed)
            found |= {_to_key(f"{metric.modality} {metric.name}"): metric.before for metric in metrics}
        if self.objective.name == "transcribe":
            found["word_error_rate"] = self._measure_word_errors()
        return found

    @torch.no_grad()
    def _measure_loss(self) -> dict[str, float]:
        loss, labels, right, answers = 0.0, 0, 0, 0
        for _, batch in self._iterate_batches(self.samples):
            count = self.objective.count(batch)
            loss += count * float(self.objective.loss(self.model.module, batch)["loss"])
            labels += count
            tokens, rows = self._count_right(batch)
            right, answers = right + tokens, answers + rows
        found = {"loss": loss / max(1, labels)}
        if self._counts_tokens():
            found["token_accuracy"] = 100.0 * right / max(1, labels)
        if self.objective.name == "generate" and all(sample.target for sample in self.samples):
            found["answer_accuracy"] = 100.0 * answers / max(1, len(self.samples))
        return found

    def _iterate_batches(self, samples: Sequence[Sample]) -> Iterator[tuple[list[Sample], dict[str, Tensor]]]:
        for rows in group_by_modality(self.model, samples, self.part):
            yield [samples[row] for row in rows], self.objective.encode([(row, samples[row]) for row in rows])

    def _counts_tokens(self) -> bool:
        return self.objective.name in _TEXT_TASKS and find_speaking_kind(self.model) != "ctc"

    def _count_right(self, batch: Batch) -> tuple[int, int]:
        """Tokens that are ranked first where they come next, and samples of which all are."""
        if not self._counts_tokens():
            return 0, 0
        inputs, labels = split_labels(batch)
        first = self.model.module(**inputs).logits.argmax(dim=-1)
        if find_speaking_kind(self.model) == "decoder":
            first, labels = first[:, :-1], labels[:, 1:]
        right, counts = first == labels, labels != IGNORED
        return int((right & counts).sum()), int((right | ~counts).all(dim=1).sum())

    @torch.no_grad()
    def _measure_word_errors(self) -> float:
        chosen = self.samples[:_TRANSCRIBED]
        said, wanted = [], []
        for samples, batch in self._iterate_batches(chosen):
            said += transcribe(self.model, select_inputs(batch))
            wanted += [sample.target or sample.text or "" for sample in samples]
        return compute_word_error_rate(said, wanted)


def transcribe(model: Model, inputs: Batch) -> list[str]:
    """What the model says of each sample, the likeliest word after word.

    Raises:
        ModelError: its `generate` failed.
    """
    tokenizer = get_processor(model.processors, "text")
    module: Any = model.module
    if find_speaking_kind(model) == "ctc":
        scores = module(**inputs).logits
        frames = count_frames(model, inputs, scores)
        rows = [_collapse(row[:count], int(module.config.pad_token_id)) for row, count in zip(scores.argmax(-1), frames, strict=True)]
    else:
        given = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
        room = getattr(module.config, "max_target_positions", None) or _LONGEST + _PROMPT
        longest = max(1, min(_LONGEST, room - _PROMPT))
        made = run_foreign("generating text", lambda: module.generate(**given, max_new_tokens=longest, do_sample=False, num_beams=1))
        rows = made.tolist()
    return [str(text) for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]


def _collapse(frames: Tensor, blank: int) -> list[int]:
    """The tokens of a row of frames (frames,): repeated ones once, blanks left out."""
    return [int(token) for token in torch.unique_consecutive(frames) if int(token) != blank]


def _to_key(name: str) -> str:
    """A metric's name as the curves have it: `image_accuracy`."""
    words = re.findall(r"\w+", name.lower())
    return "_".join(word for at, word in enumerate(words) if at == 0 or word != words[at - 1])

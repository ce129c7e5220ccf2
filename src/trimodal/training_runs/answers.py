"""Sequence-level distillation: what the teacher itself says of each sample is what the student learns to say.

The likeliest answer, found greedily or by beams, stands for the teacher's whole distribution over answers (Kim and Rush 2016, arXiv
1606.07947; Distil-Whisper, Gandhi et al. 2023, arXiv 2311.00430). No targets are needed. Answers are kept as JSON beside the teacher's
outputs, under a fingerprint of all that they depend on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trimodal.core import Sample
from trimodal.data import encode_samples, group_by_modality
from trimodal.errors import DataError
from trimodal.models.encoding import get_processor
from trimodal.models.foreign import run_foreign
from trimodal.models.model import Model
from trimodal.progress import Progress
from trimodal.training.speaking import find_speaking_kind
from trimodal.training_runs.evaluation import transcribe
from trimodal.writing import write_text_atomically

_AT_ONCE = 8


@torch.no_grad()
def answer_samples(
    teacher: Model, samples: Sequence[Sample], beams: int, longest: int, file: Path | None, progress: Progress, tell: Callable[[str], None]
) -> list[Sample]:
    """`samples` with the teacher's answers as targets; read from `file` where it is there, else written to it.

    Raises:
        DataError: the teacher says nothing of any of them.
    """
    if file is not None and file.is_file():
        tell(f"the teacher's answers are there already: {file}")
        answers = json.loads(file.read_text(encoding="utf-8"))
    else:
        answers = _ask(teacher, samples, beams, longest, progress)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(file, json.dumps(answers, ensure_ascii=False, indent=0) + "\n")
    said = [answer for answer in answers if answer]
    if not said:
        raise DataError("the teacher has nothing to say of any sample; give another teacher, or leave distill.sequence out")
    tell(f"the teacher's own answers are what is learned: {len(said):,} of {len(samples):,} samples have one, such as {said[0]!r:.60}")
    return [replace(sample, target=answer) for sample, answer in zip(samples, answers, strict=True) if answer]


def _ask(teacher: Model, samples: Sequence[Sample], beams: int, longest: int, progress: Progress) -> list[str]:
    """What the teacher says of each sample; empty where it says nothing."""
    module: Any = teacher.module.eval()
    kind = find_speaking_kind(teacher)
    at_once = 1 if kind == "decoder" else _AT_ONCE  # prompts of unlike length would have to be padded on the left
    answers = [""] * len(samples)
    for rows in group_by_modality(teacher, samples, at_once):
        progress("teacher's answers", rows[0], len(samples))
        asked = [_leave_question(samples[row], kind) for row in rows]
        batch = {name: value for name, value in encode_samples(teacher, asked).items() if name != "labels"}
        said = transcribe(teacher, batch) if kind == "ctc" else _generate(teacher, module, batch, kind, beams, longest)
        for row, text in zip(rows, said, strict=True):
            answers[row] = text.strip()
    return answers


def _leave_question(sample: Sample, kind: str) -> Sample:
    """The sample without what is to be said of it; of a sound that is its text too."""
    if kind == "decoder" or sample.audio is None:
        return replace(sample, target=None)
    return replace(sample, target=None, text=None)


def _generate(teacher: Model, module: Any, batch: dict[str, Any], kind: str, beams: int, longest: int) -> list[str]:
    given = {name: value for name, value in batch.items() if not name.startswith("decoder_")}
    room = getattr(module.config, "max_target_positions", None)
    most = longest if room is None else max(1, min(longest, room - 8))
    made = run_foreign("generating an answer", lambda: module.generate(**given, max_new_tokens=most, do_sample=False, num_beams=beams))
    if kind == "decoder":
        made = made[:, given["input_ids"].shape[1] :]
    return [str(text) for text in get_processor(teacher.processors, "text").batch_decode(made, skip_special_tokens=True)]

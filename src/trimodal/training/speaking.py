"""Text out: transcription and generation. What is said is the sample's `target`; of a sound without one, its `text`.

Which loss it is follows from the model:

    encoder-decoder   the next token of the target, from the tokens before it (Whisper, T5)
    CTC               every way of spreading the target over the frames (Graves et al. 2006; Wav2Vec2)
    decoder           the next token of the target behind the prompt; of the whole text where no sample has a target
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimodal.core import Sample
from trimodal.data import encode_samples
from trimodal.errors import DataError, InputError
from trimodal.models.declare import config_of
from trimodal.models.encoding import get_processor, pad_token_rows, tokenize_texts
from trimodal.models.model import Batch as ModelBatch
from trimodal.models.model import Model
from trimodal.training.objective import IGNORED, LABELS, Batch, Drawn, Objective, count_labels, split_labels


def make_speak(name: str, model: Model, samples: Sequence[Sample]) -> Objective:
    """The objective called `name` (`transcribe` or `generate`) for `model`.

    Raises:
        InputError: the model puts out no text.
        DataError: a sample has nothing to say.
    """
    kind = find_speaking_kind(model)
    for sample in samples:
        if not (sample.target or sample.text) and sample.inputs is None:
            raise DataError(f"{sample.where}: neither target nor text; task: {name} needs what is to be said in every line")
    if kind == "ctc":
        return Objective(name, partial(_encode_ctc, model), partial(_compute_ctc_loss, model), _count_transcripts)
    shift = kind == "decoder"
    encode = partial(_encode_decoder if shift else _encode_seq2seq, model)
    return Objective(name, encode, partial(_compute_token_loss, shift), _count_next_labels if shift else count_labels)


def find_speaking_kind(model: Model) -> str:
    """`ctc`, `seq2seq` or `decoder`.

    Raises:
        InputError: the model is none of them.
    """
    module = model.module
    config: Any = getattr(module, "config", None)
    if type(module).__name__.endswith("ForCTC"):
        return "ctc"
    tokens = any(output.kind == "tokens" and not output.rows for output in model.family.outputs(module))
    if not tokens:
        raise InputError(
            f"{type(module).__name__} puts out no text; task: transcribe or generate needs a class such as "
            "WhisperForConditionalGeneration, Wav2Vec2ForCTC or LlamaForCausalLM"
        )
    return "seq2seq" if getattr(config, "is_encoder_decoder", False) else "decoder"


def mark_scored_tokens(model: Model, batch: Batch, scores: Tensor) -> Tensor:
    """Which of the scores (batch, tokens, vocabulary) are of what is to be said, bool (batch, tokens); for CTC, frames with sound."""
    kind = find_speaking_kind(model)
    if kind == "ctc":
        frames = count_frames(model, split_labels(batch)[0], scores)
        return torch.arange(scores.shape[1], device=scores.device)[None] < frames[:, None]
    said = batch[LABELS] != IGNORED
    return torch.cat((said[:, 1:], torch.zeros_like(said[:, :1])), dim=1) if kind == "decoder" else said


def _encode_seq2seq(model: Model, drawn: Sequence[Drawn]) -> dict[str, Tensor]:
    """The family's batch, and `labels` (batch, tokens): each decoder token's next one, the end behind the last."""
    batch = encode_samples(model, [sample for _, sample in drawn])
    return {**{n: v for n, v in batch.items() if n != LABELS}, LABELS: make_next_tokens(batch, int(config_of(model.module).eos_token_id))}


def make_next_tokens(batch: ModelBatch, end: int) -> Tensor:
    """int64 (batch, tokens): what follows each of `decoder_input_ids`, `end` behind the last that `decoder_attention_mask` has.

        (start, a, b, pad) → (a, b, end, ignored)
    """
    ids, mask = batch["decoder_input_ids"], batch["decoder_attention_mask"]
    labels = torch.full_like(ids, IGNORED)
    labels[:, :-1] = ids[:, 1:].masked_fill(mask[:, 1:] == 0, IGNORED)
    last = mask.sum(dim=1) - 1
    return labels.scatter(1, last[:, None], end)


def _encode_decoder(model: Model, drawn: Sequence[Drawn]) -> dict[str, Tensor]:
    """The family's batch with its labels of the targets, or the whole texts as labels (batch, tokens)."""
    batch = encode_samples(model, [_end_sample(model, sample) for _, sample in drawn])
    if LABELS not in batch:
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        batch[LABELS] = batch["input_ids"].masked_fill(mask == 0, IGNORED)
    return batch


def _end_sample(model: Model, sample: Sample) -> Sample:
    """`sample` with the end of the text behind what is to be said, so that saying it ends, where the tokenizer puts none there itself."""
    tokenizer = model.processors.text if model.processors.text is not None else getattr(model.processors.whole, "tokenizer", None)
    end = getattr(tokenizer, "eos_token", None)
    if tokenizer is None or not end or sample.inputs is not None or tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]:
        return sample
    return replace(sample, target=f"{sample.target}{end}") if sample.target else replace(sample, text=f"{sample.text}{end}")


def _count_next_labels(batch: Batch) -> int:
    return int((batch[LABELS][:, 1:] != IGNORED).sum())


def _compute_token_loss(shift: bool, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    inputs, labels = split_labels(batch)
    scores = module(**inputs).logits
    if shift:
        scores, labels = scores[:, :-1], labels[:, 1:]
    total = functional.cross_entropy(scores.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return {"loss": total / max(1, int((labels != IGNORED).sum()))}


def _encode_ctc(model: Model, drawn: Sequence[Drawn]) -> dict[str, Tensor]:
    """The family's batch, and `labels` (batch, tokens) of the transcripts."""
    samples = [sample for _, sample in drawn]
    batch = encode_samples(model, [replace(sample, text=None) if sample.audio is not None else sample for sample in samples])
    rows = spell_transcripts(model, samples)
    ids, mask = pad_token_rows(rows, 0)
    device = next(iter(batch.values())).device
    return {**{n: v for n, v in batch.items() if n != LABELS}, LABELS: ids.masked_fill(mask == 0, IGNORED).to(device)}


def spell_transcripts(model: Model, samples: Sequence[Sample]) -> list[list[int]]:
    """The tokens of what each sample says, without special ones."""
    tokenizer = get_processor(model.processors, "text")
    said = [sample.target or sample.text or "" for sample in samples]
    special = set(tokenizer.all_special_ids)
    return [[token for token in row if token not in special] for row in tokenize_texts(tokenizer, said, None)]


def _count_transcripts(batch: Batch) -> int:
    return len(batch[LABELS])


def _compute_ctc_loss(model: Model, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The mean over samples of the negative log-likelihood per token."""
    inputs, labels = split_labels(batch)
    scores = module(**inputs).logits  # (batch, frames, vocabulary)
    frames = count_frames(model, inputs, scores)
    sizes = (labels != IGNORED).sum(dim=1)
    blank = int(config_of(model.module).pad_token_id)
    spread = functional.log_softmax(scores.float(), dim=-1).transpose(0, 1)
    each = functional.ctc_loss(spread, labels.clamp(min=0), frames, sizes, blank=blank, reduction="none", zero_infinity=True)
    return {"loss": (each / sizes.clamp(min=1)).mean()}


def count_frames(model: Model, inputs: Batch, scores: Tensor) -> Tensor:
    """int64 (batch,): how many of the frames of `scores` (batch, frames, vocabulary) are sound."""
    whole = torch.full((len(scores),), scores.shape[1], device=scores.device)
    measure: Any = getattr(model.module, "_get_feat_extract_output_lengths", None)
    if "attention_mask" not in inputs or measure is None:
        return whole
    return torch.minimum(whole, measure(inputs["attention_mask"].sum(dim=1)).to(whole))

"""Trains the built-in model of the see-hear-read task, and unpacks the one that comes with the package.

Training has three parts. First the towers learn their own modality alone (which digit is seen, which is
heard, which operation is asked), with strong augmentation, because writers and voices of the test are new.
Then the fusion learns to answer from the towers' kept outputs, paired at random, which is cheap. At last
everything learns together, on questions made on the fly from any image, any clip and any wording of the
training split. Each part ends with a moving average of its weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimodal.demo.augmentation import augment_features, augment_images, augment_waves
from trimodal.demo.seehearread import ANSWERS, OPERATIONS, QuestionItem, answer_class_of, load_handwriting, load_speech
from trimodal.demo.seehearread import draw_questions as make_questions
from trimodal.demo.seehearread import list_texts as make_texts
from trimodal.errors import ModelError
from trimodal.networks.fusion import FusionConfig, FusionModel, FusionProcessor, make_processor
from trimodal.networks.fusion.modeling import MODALITIES
from trimodal.training.batchwise import Loss, train_on_batches
from trimodal.training.settings import EngineSettings
from trimodal.training.steps import StepRecord
from trimodal.writing import check_output_place, open_atomic_folder

PACKAGED = "model"  # folder of the packaged model inside trimodal.demo.seehearread
ANSWER_TABLE = torch.tensor(
    [[[answer_class_of(o, a, b) for b in range(10)] for a in range(10)] for o in range(len(OPERATIONS))]
)  # (operations, 10, 10): the class of the right answer
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class DemoScores:
    """Fractions of right answers over `count` questions: the whole (`answer`), each tower alone (`image`, `audio`, `text`), and
    per operation."""

    count: int
    answer: float
    image: float
    audio: float
    text: float
    operations: Mapping[str, float]


@dataclass(frozen=True)
class TrainingMaterial:
    """The training split as tensors.

    `pixels` (n, 1, S, S) float32 normalised, `digits` (n,); `waves` (m, N) float32 zero-padded, `lengths`
    (m,) in samples, `spoken` (m,); `ids` and `known` (k, T) token ids and their mask, `asked` (k,)
    operations.
    """

    pixels: Tensor
    digits: Tensor
    waves: Tensor
    lengths: Tensor
    spoken: Tensor
    ids: Tensor
    known: Tensor
    asked: Tensor


def make_demo_config(fusion: str = "hybrid") -> FusionConfig:
    """The shape of the built-in model: about 2.7 million parameters, more than the task needs, on purpose."""
    names = {number: str(value) for number, value in enumerate(ANSWERS)}
    return FusionConfig(
        fusion=fusion, id2label=names, label2id={name: number for number, name in names.items()},
        text_labels=len(OPERATIONS),
    )  # fmt: skip


def make_demo_processor(config: FusionConfig) -> FusionProcessor:
    """The processor that belongs to the built-in model; its words are those of the training wordings."""
    return make_processor(config, _list_training_texts()[0])


def _list_training_texts() -> tuple[list[str], list[int]]:
    """All training texts and the operation that each asks for."""
    pairs = [(text, number) for number in range(len(OPERATIONS)) for text in make_texts(number, "train")]
    return [text for text, _ in pairs], [number for _, number in pairs]


def prepare_material(processor: FusionProcessor) -> TrainingMaterial:
    """The training split, processed once."""
    handwriting, speech = load_handwriting("train"), load_speech("train")
    pixels = processor(images=[image[:, :, None] for image in handwriting.images])["pixel_values"]
    waves = torch.zeros(len(speech), processor.feature_extractor.n_samples)
    for row, clip in enumerate(speech):
        waves[row, : len(clip.samples)] = torch.from_numpy(clip.samples)
    words, asked = _list_training_texts()
    encoded = processor(text=words)
    return TrainingMaterial(
        pixels=pixels,
        digits=torch.from_numpy(handwriting.digits),
        waves=waves,
        lengths=torch.tensor([len(clip.samples) for clip in speech]),
        spoken=torch.tensor([clip.digit for clip in speech]),
        ids=encoded["input_ids"],
        known=encoded["attention_mask"],
        asked=torch.tensor(asked),
    )


class QuestionBatches:
    """Training batches made on the fly: any image, any clip, any wording. ``questions(number)`` makes one."""

    def __init__(self, material: TrainingMaterial, processor: FusionProcessor, size: int, seed: int) -> None:
        self.material = material
        self.extractor = processor.feature_extractor
        self.unknown = int(processor.tokenizer.unk_token_id)
        self.size = size
        self.chance = torch.Generator().manual_seed(seed)

    def __call__(self, number: int) -> Batch:
        """Batch `number`; the model's inputs and the four labels."""
        images, sounds, words = self.make_image_batch(), self.make_audio_batch(), self.make_text_batch()
        answers = ANSWER_TABLE[words["text_labels"], images["image_labels"], sounds["audio_labels"]]
        return {**images, **sounds, **words, "labels": answers}

    def draw_rows(self, count: int) -> Tensor:
        """(size,) row numbers below `count`."""
        return torch.randint(count, (self.size,), generator=self.chance)

    def make_image_batch(self) -> Batch:
        """`pixel_values` and `image_labels`."""
        rows = self.draw_rows(len(self.material.digits))
        pixels = augment_images(self.material.pixels[rows], self.chance)
        return {"pixel_values": pixels, "image_labels": self.material.digits[rows]}

    def make_audio_batch(self) -> Batch:
        """`input_features`, `audio_mask` and `audio_labels`."""
        rows = self.draw_rows(len(self.material.spoken))
        waves, lengths = augment_waves(self.material.waves[rows], self.material.lengths[rows], self.chance)
        features = augment_features(self.extractor.compute_log_mel(waves), self.chance)
        starts = torch.arange(features.shape[-1]) * self.extractor.hop_length
        mask = (starts[None] < lengths[:, None]).long()
        return {"input_features": features, "audio_mask": mask, "audio_labels": self.material.spoken[rows]}

    def make_text_batch(self) -> Batch:
        """`input_ids`, `attention_mask` and `text_labels`; every tenth word or so is hidden."""
        rows = self.draw_rows(len(self.material.asked))
        ids, known = self.material.ids[rows], self.material.known[rows]
        hidden = (torch.rand(ids.shape, generator=self.chance) < 0.1) & known.bool()
        longest = int(known.sum(dim=1).max())
        ids = ids.masked_fill(hidden, self.unknown)[:, :longest]
        return {
            "input_ids": ids,
            "attention_mask": known[:, :longest],
            "text_labels": self.material.asked[rows],
        }


# Losses


def compute_tower_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Each tower on its own modality; the fusion does not run. Scalars: the `loss`, and each tower's part."""
    few = -(-len(batch["text_labels"]) // 4)  # the text tower learns in a few steps
    seen = model(pixel_values=batch["pixel_values"]).image_logits
    heard = model(input_features=batch["input_features"], audio_mask=batch["audio_mask"]).audio_logits
    read = model(input_ids=batch["input_ids"][:few], attention_mask=batch["attention_mask"][:few]).text_logits
    parts = {
        "image": _smoothed_cross_entropy(seen, batch["image_labels"]),
        "audio": _smoothed_cross_entropy(heard, batch["audio_labels"]),
        "text": _smoothed_cross_entropy(read, batch["text_labels"][:few]),
    }
    return {"loss": torch.stack(list(parts.values())).sum(), **parts}


def compute_joint_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The answer, and the towers with a third of the weight each. Scalars: the `loss`, and its parts."""
    labels = ("labels", "image_labels", "audio_labels", "text_labels")
    output = model(**{name: value for name, value in batch.items() if name not in labels})
    parts = {
        "answer": _smoothed_cross_entropy(output.logits, batch["labels"]),
        "image": _smoothed_cross_entropy(output.image_logits, batch["image_labels"]),
        "audio": _smoothed_cross_entropy(output.audio_logits, batch["audio_labels"]),
        "text": _smoothed_cross_entropy(output.text_logits, batch["text_labels"]),
    }
    towers = parts["image"] + parts["audio"] + parts["text"]
    return {"loss": parts["answer"] + 0.3 * towers, **parts}


def _smoothed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with a little label smoothing, which helps with writers and voices never met."""
    return F.cross_entropy(logits, labels, label_smoothing=0.05)


class TokenBank:
    """Towers' outputs for many augmented inputs, kept so that the fusion learns without running the towers.

    ``bank(number)`` pairs kept images, sounds and texts at random; the answer follows from the pair.
    """

    def __init__(self, model: FusionModel, source: QuestionBatches, batches: int) -> None:
        self.size = source.size
        self.chance = source.chance
        parts: list[Batch] = [self.encode_towers(model, source(number)) for number in range(batches)]
        longest = max(part["text"].shape[1] for part in parts)
        for part in parts:
            room = longest - part["text"].shape[1]
            part["text"] = F.pad(part["text"], (0, 0, 0, room))
            part["text_mask"] = F.pad(part["text_mask"], (0, room))
        self.kept = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @staticmethod
    @torch.no_grad()
    def encode_towers(model: FusionModel, batch: Batch) -> Batch:
        """One batch through the towers: tokens, masks and labels of each modality."""
        masks = model.make_token_masks(batch["audio_mask"], batch["attention_mask"])
        audio_mask, text_mask = masks["audio"], masks["text"]
        assert audio_mask is not None, "the batch holds an audio mask"
        assert text_mask is not None, "the batch holds a text mask"
        return {
            "image": model.image(batch["pixel_values"]),
            "audio": model.audio(batch["input_features"], audio_mask),
            "text": model.text(batch["input_ids"], text_mask),
            "audio_mask": audio_mask,
            "text_mask": text_mask,
            **{f"{name}_labels": batch[f"{name}_labels"] for name in MODALITIES},
        }

    def __call__(self, number: int) -> Batch:
        """Batch `number`: tokens of three modalities that never met before, and `labels`."""
        count = len(self.kept["image"])
        rows = {m: torch.randint(count, (self.size,), generator=self.chance) for m in MODALITIES}
        drawn = {name: value[rows[name.split("_")[0]]] for name, value in self.kept.items()}
        longest = int(drawn["text_mask"].sum(dim=1).max())
        drawn["text"], drawn["text_mask"] = drawn["text"][:, :longest], drawn["text_mask"][:, :longest]
        drawn["labels"] = ANSWER_TABLE[drawn["text_labels"], drawn["image_labels"], drawn["audio_labels"]]
        return drawn


def compute_fusion_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The answer from kept tokens (batch, tokens, width), a scalar; only the fusion and the answer's head run."""
    assert isinstance(model, FusionModel)  # train_on_batches() hands back the model that it was given
    masks = {"image": None, "audio": batch["audio_mask"], "text": batch["text_mask"]}
    streams = {name: batch[name] for name in MODALITIES}
    return _smoothed_cross_entropy(model.head(model.fusion(streams, masks)), batch["labels"])


class ParameterAverage:
    """A moving average of a model's parameters; after n steps it spans n / 9 of them, at most 200."""

    def __init__(self, model: nn.Module, decay: float = 0.995) -> None:
        self.model = model
        self.decay = decay
        self.average = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, record: StepRecord) -> None:
        """Take in the weights after a step."""
        rate = 1 - min(self.decay, (1 + record.step) / (10 + record.step))
        for name, value in self.model.named_parameters():
            self.average[name].lerp_(value, rate)

    @torch.no_grad()
    def write_average_(self) -> None:
        """Put the average into the model."""
        for name, value in self.model.named_parameters():
            value.copy_(self.average[name])


# The whole training


@dataclass(frozen=True)
class DemoSteps:
    """How many optimizer steps each part of the training has: the `towers` one by one, the `fusion` on kept tokens, all `joint`; 0
    leaves a part out."""

    towers: int = 700
    fusion: int = 1500
    joint: int = 200


def train_demo_model(
    out: Path,
    *,
    seed: int = 0,
    steps: DemoSteps | None = None,
    batch: int = 64,
    fusion: str = "hybrid",
    on_step: Callable[[str, StepRecord], None] | None = None,
    force: bool = False,
) -> Path:
    """Train the built-in model from nothing and save it as a complete folder at `out`; what stands there is replaced with
    `force` only.

    `batch` is the number of questions in a step. `on_step` is called with the part (``towers``, ``fusion`` or
    ``joint``) and the record of every step.
    """
    check_output_place(Path(out), force)
    steps = steps or DemoSteps()
    torch.manual_seed(seed)
    config = make_demo_config(fusion)
    processor = make_demo_processor(config)
    config.vocabulary_size = len(processor.tokenizer)
    model = FusionModel(config)
    material = prepare_material(processor)
    parts: list[tuple[str, int, int, float, Loss[Batch]]] = [
        ("towers", steps.towers, batch, 2e-3, compute_tower_loss),
        ("fusion", steps.fusion, batch // 2, 1e-3, compute_fusion_loss),
        ("joint", steps.joint, batch, 3e-4, compute_joint_loss),
    ]
    for number, (name, count, size, rate, loss) in enumerate(parts):
        if not count:
            continue
        source = QuestionBatches(material, processor, size, seed=len(parts) * seed + number)
        batches = TokenBank(model, source, min(count, 200)) if name == "fusion" else source
        average = ParameterAverage(model)
        settings = EngineSettings(count, learning_rate=rate, weight_decay=0.05, warmup=0.1, seed=seed)
        train_on_batches(model, batches, loss, settings, on_step=_make_reporter(name, average, on_step))
        average.write_average_()
    return save_model(model, processor, out, force)


def _make_reporter(
    part: str, average: ParameterAverage, on_step: Callable[[str, StepRecord], None] | None
) -> Callable[[StepRecord], None]:
    """Update the average, then tell the caller."""

    def report(record: StepRecord) -> None:
        average.update(record)
        if on_step is not None:
            on_step(part, record)

    return report


def save_model(model: FusionModel, processor: FusionProcessor, out: Path, force: bool = False) -> Path:
    """Model and processor in one folder; what stands there is replaced with `force` only."""
    out = Path(out)
    with open_atomic_folder(out, force) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)
    return out


def unpack_demo_model(folder: Path, force: bool = False) -> Path:
    """Write the packaged model (stored in float16) to `folder` as an ordinary float32 model folder; what stands there is replaced
    with `force` only.

    Raises:
        ModelError: the package holds no trained model.
    """
    folder = Path(folder)
    packaged = files("trimodal.demo.seehearread") / PACKAGED
    if not (packaged / "config.json").is_file():
        raise ModelError("The package holds no trained model; run scripts/make_demo_weights.py to make one.")
    with as_file(packaged) as source, open_atomic_folder(folder, force) as part:
        shutil.copytree(source, part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("scores.json"))
        FusionModel.from_pretrained(part, dtype=torch.float32).save_pretrained(part)
    return folder


# Measuring


@torch.inference_mode()
def score_demo_model(
    model: nn.Module, processor: FusionProcessor, *, split: str = "test", count: int = 2000, seed: int = 0
) -> DemoScores:
    """How often the model and each of its towers is right on questions of a split."""
    items = make_questions(split, count, seed)
    images = {int(i): image for i, image in _list_indexed_images(split)}
    was_training = model.training
    model.eval()
    rows = [_score_answers(model, processor, items[start : start + 100], images) for start in range(0, count, 100)]
    model.train(was_training)
    right = torch.cat(rows).float()  # (count, 4): answer, image, audio, text
    answer, image, audio, text = right.mean(dim=0).tolist()
    asked = torch.tensor([item.operation for item in items])
    operations = {o.name: float(right[asked == number, 0].mean()) for number, o in enumerate(OPERATIONS)}
    return DemoScores(count, answer, image, audio, text, operations)


def _list_indexed_images(split: str) -> list[tuple[int, Any]]:
    """(index in the digits data set, image) of a split."""
    handwriting = load_handwriting(split)
    return list(zip(handwriting.indices.tolist(), handwriting.images, strict=True))


def _score_answers(model: nn.Module, processor: FusionProcessor, items: Sequence[QuestionItem], images: Mapping[int, Any]) -> Tensor:
    """Which of answer, image, audio and text are right: bool (items, 4)."""
    inputs = processor(
        images=[images[item.image][:, :, None] for item in items],
        audio=[item.clip.samples for item in items],
        text=[item.text for item in items],
    )
    output = model(**inputs)
    logits = (output.logits, output.image_logits, output.audio_logits, output.text_logits)
    truth = [(item.label, item.seen, item.clip.digit, item.operation) for item in items]
    return torch.stack([score.argmax(dim=1) for score in logits], dim=1) == torch.tensor(truth)

"""Each task's loss, by hand where it can be, and that it falls on a miniature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from trimodal.core import Sample
from trimodal.data import read_samples
from trimodal.errors import DataError, InputError
from trimodal.loading.load import build_model, load_source
from trimodal.models.model import Model
from trimodal.networks.tiny import TEXT_SIZES, write_miniature, write_miniature_data
from trimodal.networks.tiny_parts import WORDS, make_tokenizer
from trimodal.training.engine import train_module
from trimodal.training.memory import estimate_memory, measure_activations
from trimodal.training.objective import IGNORED, Objective
from trimodal.training.order import order_samples
from trimodal.training.retrieving import compute_contrastive_loss, compute_sigmoid_loss
from trimodal.training.settings import EngineSettings, RunFolder
from trimodal.training.speaking import make_next_tokens
from trimodal.training.tasks import TaskName, make_objective
from trimodal.training.telling import read_curves

CASES = [
    ("fusion", "classify", ["image", "audio", "text"]),
    ("clip", "retrieve", ["image", "text"]),
    ("siglip", "retrieve", ["image", "text"]),
    ("whisper", "transcribe", ["audio"]),
    ("wav2vec2", "transcribe", ["audio"]),
    ("t5", "generate", ["text"]),
    ("llama", "generate", ["text"]),
    ("llava", "generate", ["image", "text"]),
]


def learn(model: Model, objective: Objective, samples: Sequence[Sample], folder: Path, steps: int = 12) -> list[float]:
    settings = EngineSettings(steps=steps, batch=8, learning_rate=3e-3)
    train_module(model.module, objective, samples, order_samples([0] * len(samples), steps, 8, 0), settings, RunFolder(folder))
    return [line["loss"] for line in read_curves(folder / "curves.jsonl")]


@pytest.mark.parametrize(("name", "task", "modalities"), CASES)
def test_the_loss_falls(name: str, task: TaskName, modalities: list[str], tmp_path: Path) -> None:
    folder = write_miniature(name, tmp_path / name)
    if name == "wav2vec2":
        make_tokenizer().save_pretrained(folder)
    model, samples = load_source(folder), read_samples(str(write_miniature_data(tmp_path / "data", 24, modalities)))
    losses = learn(model, make_objective(task, model, samples, part=8), samples, tmp_path / "run")
    assert sum(losses[-3:]) < sum(losses[:3])


class Autoencoder(nn.Module):
    """Two convolutions that make an image smaller and large again."""

    modalities = ("image",)

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder, self.image_decoder = nn.Conv2d(3, 8, 4, stride=4), nn.ConvTranspose2d(8, 3, 4, stride=4)

    def forward(self, pixel_values: Tensor) -> Tensor:
        made: Tensor = self.image_decoder(self.image_encoder(pixel_values))
        return made


def test_an_autoencoder_reconstructs(tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(0)
    rows = [{"pixel_values": torch.rand(3, 16, 16, generator=chance)} for _ in range(16)]
    torch.manual_seed(0)
    model, samples = build_model(Autoencoder(), "autoencoder"), read_samples(rows)
    objective = make_objective("reconstruct", model, samples, part=8)
    batch = objective.encode([(0, samples[0])])
    with torch.no_grad():
        expected = (model.module(**batch) - batch["pixel_values"]).square().mean()
        assert objective.loss(model.module, batch)["loss"] == pytest.approx(float(expected))
    losses = learn(model, objective, samples, tmp_path / "run", steps=30)
    assert losses[-1] < 0.9 * losses[0]


def test_hidden_words_are_drawn_by_the_place_in_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    torch.manual_seed(0)
    hf.BertForMaskedLM(hf.BertConfig(**{**TEXT_SIZES, "vocab_size": 80})).save_pretrained(folder)
    tokenizer = make_tokenizer("[MASK]")
    tokenizer.mask_token = "[MASK]"
    tokenizer.save_pretrained(folder)
    model = load_source(folder)
    samples = read_samples([{"text": " ".join(WORDS[start : start + 8])} for start in range(16)])
    objective = make_objective("reconstruct", model, samples, part=8, hidden=0.4, seed=3)
    first, again, later = (objective.encode([(place, samples[0])]) for place in (5, 5, 6))
    assert first["input_ids"].equal(again["input_ids"])
    assert not first["input_ids"].equal(later["input_ids"])
    chosen = first["labels"] != IGNORED
    assert bool((first["input_ids"][chosen] == tokenizer.mask_token_id).all())
    assert objective.count(first) == int(chosen.sum())
    losses = learn(model, objective, samples, tmp_path / "run", steps=30)
    assert sum(losses[-3:]) < sum(losses[:3])


def test_contrastive_loss_by_hand() -> None:
    assert float(compute_contrastive_loss(torch.zeros(2, 2), torch.eye(2).bool())) == pytest.approx(math.log(2))
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert float(compute_contrastive_loss(scores, torch.eye(2).bool())) == pytest.approx(math.log(1 + math.exp(-1)))
    alike = torch.ones(2, 2).bool()  # both pairs have the same text: neither is wrong for the other
    assert float(compute_contrastive_loss(torch.zeros(2, 2), alike)) == pytest.approx(math.log(2))
    assert float(compute_sigmoid_loss(torch.zeros(2, 2), torch.eye(2).bool())) == pytest.approx(2 * math.log(2))


def test_next_tokens_by_hand() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    batch = {"decoder_input_ids": torch.tensor([[1, 5, 6, 0], [1, 0, 0, 0]]), "decoder_attention_mask": mask}
    assert make_next_tokens(batch, 2).tolist() == [[5, 6, 2, IGNORED], [2, IGNORED, IGNORED, IGNORED]]


def test_a_decoder_learns_where_to_end(tmp_path: Path) -> None:
    folder = write_miniature("llama", tmp_path / "llama")
    tokenizer = make_tokenizer()
    tokenizer._tokenizer.post_processor = None  # as of most decoders: it puts no end behind a text
    tokenizer.save_pretrained(folder)
    model, (sample,) = load_source(folder), read_samples([{"text": WORDS[0], "target": f"{WORDS[1]} {WORDS[2]}"}])
    labels = make_objective("generate", model, [sample], part=2).encode([(0, sample)])["labels"][0].tolist()
    words = tokenizer(f"{WORDS[1]} {WORDS[2]}")["input_ids"]
    assert labels == [IGNORED, *words, tokenizer.eos_token_id]


def test_order_goes_through_all_and_keeps_kinds_apart() -> None:
    order = order_samples([0] * 10, 4, 5, 1)
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]
    assert order == order_samples([0] * 10, 4, 5, 1)
    kinds = ["a"] * 6 + ["b"] * 3
    mixed = order_samples(kinds, 40, 3, 0)
    steps = [{kinds[at] for at in mixed[start : start + 3]} for start in range(0, 120, 3)]
    assert all(len(step) == 1 for step in steps)
    assert {"a"} in steps and {"b"} in steps


def test_memory_counts_what_backward_needs(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    inputs = torch.zeros(3, 4, requires_grad=False)
    assert measure_activations(module, lambda: module(inputs).sum()) == 4 * (3 * 4 + 3 * 8)  # the input of each layer
    objective = Objective("x", lambda drawn: {}, lambda m, b: {"loss": m(b["x"]).sum()}, lambda b: 3)
    found = estimate_memory(module, objective, {"x": inputs}, EngineSettings(steps=1, batch=30))
    numbers = 4 * 8 + 8 + 8 * 2 + 2
    assert found.parameters_bytes == found.gradients_bytes == 4 * numbers
    assert found.optimizer_bytes == 8 * numbers
    assert found.activations_bytes == 10 * 4 * (3 * 4 + 3 * 8)


def test_samples_that_do_not_fit(tmp_path: Path) -> None:
    model = load_source(write_miniature("clip", tmp_path / "clip"))
    samples = read_samples(str(write_miniature_data(tmp_path / "data", 4, ["image"])))
    with pytest.raises(DataError, match=r"line 1: no text; task: retrieve needs both in every line"):
        make_objective("retrieve", model, samples, part=4)
    both = read_samples(str(write_miniature_data(tmp_path / "both", 4, ["image", "text"])))
    with pytest.raises(InputError, match="give a batch of at least 2 per part"):
        make_objective("retrieve", model, both, part=1)
    with pytest.raises(DataError, match="no line of the data has a label that CLIPModel scores"):
        make_objective("classify", model, both, part=4)

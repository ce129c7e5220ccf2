"""Two toy models side by side: which metrics come out, their values, their order, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from trimodal.core import DiskSize, Layout, Metric, Sample, Site, Tower
from trimodal.data import BatchLimits
from trimodal.errors import DataError, ModelError
from trimodal.models.model import Family, LoadedSample, Model, Output, Processors
from trimodal.verification import check_comparable, compare_models, comparison, make_verdict

OUTPUTS = {
    "answer": Output("answer", "all", "logits", label="label"),
    "image": Output("image", "image", "logits", label="labels.image"),
    "a": Output("a", "image", "embedding"),
    "b": Output("b", "text", "embedding"),
    "tokens": Output("tokens", "text", "tokens", mask="mask"),
}


class Toy(nn.Module):
    """Answers with a table looked up by the number in the text; `wrong` numbers get class 0."""

    def __init__(self, fields: Sequence[str], wrong: Sequence[int] = (), noise: float = 0.0) -> None:
        super().__init__()
        self.fields, self.wrong, self.noise = fields, wrong, noise
        self.seen: list[int] = []
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, number: Tensor, mask: Tensor) -> dict[str, Tensor]:
        assert not torch.is_grad_enabled() and not self.training
        self.seen += number.tolist()
        answer = torch.where(torch.isin(number, torch.tensor(self.wrong, dtype=torch.long)), 0, number % 10)
        logits = nn.functional.one_hot(answer, 10).float()
        vectors = torch.eye(200)[number] + self.noise * torch.eye(200)[(number + 1) % 200]
        tokens = logits[:, None].repeat(1, 3, 1)
        values = {"answer": logits, "image": logits, "a": vectors, "b": vectors, "tokens": tokens}
        return {field: values[field] for field in self.fields}


def encode(module: nn.Module, processors: Processors, samples: Sequence[LoadedSample]) -> dict[str, Tensor]:
    return {
        "number": torch.tensor([int(sample.text or "0") for sample in samples]),
        "mask": torch.tensor([[1, 1, 0]] * len(samples)),
    }


def toy(module: Toy, takes: tuple[str, ...] = ("text",)) -> Model:
    outputs = tuple(OUTPUTS[field] for field in module.fields)
    family = Family("toy", (), lambda m: Layout((), ()), lambda m: outputs, lambda m: takes, encode)
    return Model(module, Layout((), ()), family, "toy")


def numbers(count: int, labelled: bool = True) -> list[Sample]:
    return [
        Sample(line=i + 1, text=str(i), label=i % 10, labels={"image": i % 10})
        if labelled
        else Sample(line=i + 1, text=str(i))
        for i in range(count)
    ]


def run(
    fields: Sequence[str], samples: Sequence[Sample], wrong: Sequence[int] = (), noise: float = 0.0
) -> list[Metric]:
    takes = tuple(sorted(samples[0].modalities)) if samples else ("text",)
    models = toy(Toy(fields), takes), toy(Toy(fields, wrong, noise), takes)
    return compare_models(*models, samples, batch_size=7, seed=0).metrics


def test_accuracy_with_labels_overall_first() -> None:
    found = run(["image", "answer"], numbers(100), wrong=[1, 2, 3])
    assert [(m.name, m.modality, m.samples) for m in found] == [
        ("answer accuracy", "all", 100),
        ("image accuracy", "image", 100),
    ]
    assert (found[0].before, found[0].after) == (100, 97)
    assert found[0].drop == pytest.approx(3)
    assert found[0].interval == "score" and found[0].drop_low is not None and found[0].drop_high is not None
    assert found[0].drop_low < 0 < 3 < found[0].drop_high < 10  # three of three discordant ones: no more than a sign test shows


def test_agreement_and_cosine_without_labels() -> None:
    agreement, cosine = run(["answer"], numbers(40, labelled=False), wrong=[1, 2])
    assert (agreement.name, agreement.unit) == ("agreement with the original", "percent")
    assert (agreement.before, agreement.after) == (100, 95)
    assert (cosine.unit, cosine.before) == ("cosine", 1)
    assert cosine.after == pytest.approx(0.95)
    assert "no labels" in agreement.note


def test_only_labelled_lines_count_for_accuracy() -> None:
    samples = [*numbers(10), Sample(line=11, text="11")]
    (found,) = run(["answer"], samples, wrong=[11])
    assert (found.samples, found.after) == (10, 100)
    assert "not one sample changed" in found.note


def test_tokens_agree_where_the_mask_is_set() -> None:
    (found,) = run(["tokens"], numbers(20), wrong=[1])
    assert (found.name, found.modality, found.before, found.after) == ("next-token agreement", "text", 100, 95)


def test_two_encoders_give_cosines_an_overall_and_retrieval() -> None:
    found = run(["a", "b"], numbers(60), noise=1.0)
    assert [(m.name, m.modality) for m in found][:1] == [("mean cosine", "all")]
    assert {m.name for m in found} == {"mean cosine", "image embedding cosine", "text embedding cosine"}
    assert all(m.after == pytest.approx(2**-0.5) and m.before == 1 for m in found)


def test_retrieval_needs_fifty_distinct_pairs(tmp_path: Path) -> None:
    samples = [Sample(line=i, text=str(i), image=tmp_path / f"{i}.png") for i in range(60)]
    for sample in samples:
        Image.new("RGB", (2, 2)).save(sample.image or "")
    names = {m.name: m for m in run(["a", "b"], samples, noise=0.5)}
    assert names["image to text retrieval"].before == 100
    assert names["text to image retrieval"].modality == "text"
    assert "nearest of 60 text items" in names["image to text retrieval"].note
    few = [m.name for m in run(["a", "b"], samples[:49] * 2, noise=0.5)]
    assert not any("retrieval" in name for name in few)


def test_every_sample_once_per_model_on_the_same_batches() -> None:
    before, after = Toy(["answer"]), Toy(["answer"])
    steps: list[tuple[str, int, int]] = []
    compare_models(toy(before), toy(after), numbers(17), batch_size=5, seed=0, progress=lambda *at: steps.append(at))
    assert before.seen == after.seen == list(range(17))
    assert steps == [("verify", done, 17) for done in (5, 10, 15, 17)]


def test_same_seed_same_metrics() -> None:
    assert run(["answer"], numbers(50), wrong=[3]) == run(["answer"], numbers(50), wrong=[3])


def test_refuses_a_label_beyond_the_classes_no_samples_and_a_missing_output() -> None:
    with pytest.raises(DataError, match="line 3: label is 10, but the model has 10 classes"):
        run(["answer"], [*numbers(2), Sample(line=3, text="3", label=10)])
    with pytest.raises(DataError, match="no samples to verify"):
        run(["answer"], [])
    bare = toy(Toy(["answer"]))
    with pytest.raises(ModelError, match="compressed model has no such output; was it made from this original"):
        compare_models(bare, toy(Toy(["a"])), numbers(3), batch_size=2, seed=0)
    empty = toy(Toy(["answer"]))
    assert isinstance(empty.module, Toy)
    empty.module.fields = []
    with pytest.raises(ModelError, match="none of the outputs"):
        compare_models(empty, empty, numbers(3), batch_size=2, seed=0)


def test_verify_adds_gates_to_the_verdict() -> None:
    size = DiskSize(100, 10, 90, 9)
    models = toy(Toy(["answer"])), toy(Toy(["answer"], wrong=[1, 2, 3]))
    verdict = make_verdict(*models, numbers(100), size=size, towers=(), floors={"all": 1.0}, seed=4)
    assert (verdict.passed, verdict.seed, verdict.size) == (False, 4, size)
    without = make_verdict(*models, [], size=size, towers=())
    assert without.passed and without.metrics == ()


def test_samples_of_like_length_run_together_and_their_order_decides_nothing() -> None:
    samples = [Sample(line=i + 1, text=str(number), label=number % 10) for i, number in enumerate((5, 120, 7, 100, 3, 42))]
    before, after = Toy(["answer"]), Toy(["answer"], wrong=[7])
    found = compare_models(toy(before), toy(after), samples, batch_size=2, seed=0)
    assert before.seen == [5, 7, 3, 42, 120, 100]
    assert [(m.before, m.after) for m in found.metrics] == [(100, pytest.approx(100 * 5 / 6))]
    assert found.latency is not None and (found.latency.batches, found.latency.batch_size) == (2, 2)


class Decoder(nn.Module):
    """Scores over a vocabulary of 1,000 for eight positions; counts how many samples came at once."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 1000)
        self.sizes: list[int] = []

    def forward(self, number: Tensor, mask: Tensor) -> dict[str, Tensor]:
        self.sizes.append(len(number))
        return {"tokens": self.head(torch.ones(len(number), 8, 4)) + number[:, None, None]}


def test_scores_over_a_vocabulary_are_never_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def wide(module: nn.Module, processors: Processors, samples: Sequence[LoadedSample]) -> dict[str, Tensor]:
        return {"number": torch.tensor([int(s.text or "0") for s in samples]), "mask": torch.ones(len(samples), 8).long()}

    def model(module: Decoder) -> Model:
        site = Site("head", "text", None, "head", "linear", (1000, 4))
        layout = Layout((Tower("text", "text"),), (site,))
        family = Family("toy", (), lambda m: layout, lambda m: (OUTPUTS["tokens"],), lambda m: ("text",), wide)
        return Model(module, layout, family, "toy")

    first, second = Decoder(), Decoder()
    second.load_state_dict(first.state_dict())
    whole = compare_models(model(first), model(second), numbers(12), batch_size=12, seed=0)
    monkeypatch.setattr(comparison, "LEAST_BATCHES", 1)
    first.sizes, second.sizes = [], []
    monkeypatch.setattr(comparison, "SCORE_BYTES", 5 * 8 * 1000 * 4)
    parted = compare_models(model(first), model(second), numbers(12), batch_size=12, seed=0)
    assert first.sizes == second.sizes == [5, 5, 2]
    assert whole.metrics == parted.metrics
    monkeypatch.setattr(comparison, "VERIFICATION", BatchLimits(12, 3 * 8))
    compare_models(model(first), model(second), numbers(12), batch_size=12, seed=0)
    assert first.sizes[3:] == [3, 3, 3, 3]


@pytest.mark.parametrize("floors", [{}, {"all": 1.0}])
def test_without_data_quality_is_not_judged(floors: dict[str, float]) -> None:
    models = toy(Toy(["answer"])), toy(Toy(["answer"]))
    verdict = make_verdict(*models, [], size=DiskSize(1, 1, 1, 1), towers=(), floors=floors)
    assert verdict.quality == "not run" and verdict.passed
    assert [check.status for check in verdict.checks] == ["not run"] * len(floors)
    assert verdict.machine is not None and verdict.machine.cores >= 1 and verdict.machine.processor


class Regression(nn.Module):
    """One number per text, `off` by as much; of shape (batch, 1), or (batch,), or in a list in a dict, or the batch's mean."""

    def __init__(self, shape: str, off: float = 0.0) -> None:
        super().__init__()
        self.shape, self.off = shape, off

    def forward(self, number: Tensor, mask: Tensor) -> Any:
        value = number.float()[:, None] + 1 + self.off * (-1) ** number[:, None]
        return {"wide": value, "flat": value[:, 0], "nested": {"a": [value]}, "mean": value.mean()}[self.shape]


def regression(shape: str, kind: Literal["embedding", "logits"], off: float = 0.0) -> Model:
    outputs = (Output("output", "all", kind, label="label" if kind == "logits" else ""),)
    family = Family("toy", (), lambda m: Layout((), ()), lambda m: outputs, lambda m: ("text",), encode)
    return Model(Regression(shape, off), Layout((), ()), family, "toy")


@pytest.mark.parametrize("shape", ["wide", "flat", "nested"])
@pytest.mark.parametrize("kind", ["embedding", "logits"])
def test_an_output_of_one_number_is_measured_by_its_size_and_not_by_its_sign(
    shape: str, kind: Literal["embedding", "logits"]
) -> None:
    for off, least, most in ((0.0, 1.0, 1.0), (0.1, 0.9999, 0.99999), (10.0, 0.1, 0.9)):
        (found,) = compare_models(regression(shape, kind), regression(shape, kind, off), numbers(40), batch_size=7, seed=0).metrics
        assert (found.name, found.unit, found.before) == ("all output cosine", "cosine", 1)
        assert least <= found.after <= most


def test_an_output_without_a_row_per_sample_is_refused_before_any_work() -> None:
    with pytest.raises(ModelError, match=r"output output has shape \(\) for 2 samples, expected one row per sample"):
        check_comparable(regression("mean", "embedding"), numbers(3))
    with pytest.raises(ModelError, match="none of the outputs that its family declares"):
        check_comparable(toy(Toy([])), numbers(3))
    check_comparable(regression("flat", "logits"), numbers(1))
    check_comparable(regression("mean", "logits"), [])

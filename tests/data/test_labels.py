"""Labels by their path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from toyfamily import make_toy_model

from trimodal.core import Sample
from trimodal.data import collect_labels, name_labels, read_samples
from trimodal.errors import DataError
from trimodal.models.model import Model, Output


def test_labels_follow_their_path() -> None:
    samples = [Sample(line=1, text="a", label=3, labels={"image": 7}), Sample(line=2, text="b")]
    assert collect_labels(samples, "label") == [3, None]
    assert collect_labels(samples, "labels.image") == [7, None]
    with pytest.raises(DataError):
        collect_labels(samples, "lables.image")


NAMED = [{"text": "a", "label": "dog"}, {"text": "b", "label": "sea_lion"}, {"text": "c"}, {"text": "d", "label": "dog"}]


def make_model(names: Mapping[int, str] | None) -> Model:
    model = make_toy_model()
    model.module.config = SimpleNamespace(id2label=names)  # type: ignore[assignment]
    return model


@pytest.mark.parametrize(("names", "expected"), [
    (None, [0, 1, None, 0]), ({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, [0, 1, None, 0]),
    ({0: "cat", 1: "Sea lion, Otaria", 2: "Dog"}, [2, 1, None, 2]), ({0: "n01", 1: "n02"}, [0, 1, None, 0]),
])  # fmt: skip
def test_names_become_the_models_numbers(names: Mapping[int, str] | None, expected: list[int | None]) -> None:
    samples = read_samples(NAMED)
    assert [s.label for s in samples] == [0, 1, None, 0] and samples[1].label_name == "sea_lion"
    assert [s.label for s in name_labels(make_model(names), samples)] == expected


@pytest.mark.parametrize("names", [{0: "cat", 1: "dog"}, {0: "n01", 1: "n02", 2: "n03"}])
def test_a_name_that_the_model_has_not_is_told(names: Mapping[int, str]) -> None:
    found = "label is '(dog|sea_lion)', which is no class of .*; it knows .*: use its names or numbers, or leave labels out"
    with pytest.raises(DataError, match=found):
        name_labels(make_model(names), read_samples(NAMED))


def test_names_and_numbers_do_not_mix() -> None:
    with pytest.raises(DataError, match="row 5: label is 3, while others have names such as 'dog'; give all classes a number or"):
        read_samples([*NAMED, {"text": "e", "label": 3}])


class ToyForSequenceClassification(torch.nn.Linear):
    """Three classes, as its configuration says."""

    config = SimpleNamespace(num_labels=3)


def judge(module: torch.nn.Module) -> Model:
    model = make_toy_model()
    family = replace(model.family, outputs=lambda module: (Output("logits", "text", "logits", label="label"),))
    return replace(model, family=family, module=module)


def test_a_number_beyond_the_models_classes_is_told() -> None:
    model, rows = judge(ToyForSequenceClassification(2, 3)), [{"text": "a", "label": 2}, {"text": "b"}, {"text": "c", "label": 3}]
    assert [s.label for s in name_labels(model, read_samples(rows[:2]))] == [2, None]
    with pytest.raises(DataError, match=r"row 3: label is 3, but .* has 3 classes, 0 to 2: use their numbers, or leave labels out"):
        name_labels(model, read_samples(rows))
    named = [{"text": name, "label": name} for name in ("ape", "bee", "cat", "dog")]
    with pytest.raises(DataError, match=r"row 4: label is 3 \('dog'\), but .* has 3 classes"):
        name_labels(model, read_samples(named))
    assert [s.label for s in name_labels(judge(torch.nn.Linear(2, 3)), read_samples(rows))] == [2, None, 3]

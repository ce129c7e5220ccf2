"""Rows that are what forward is given: by name, in order, alone; stacked by shape, lazily, told apart by content."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from toyfamily import make_toy_model

from trimodal.core import Sample
from trimodal.data import (
    batch_samples,
    check_modalities,
    digest_samples,
    encode_samples,
    open_data,
    read_samples,
    split_calibration_and_held_out,
)
from trimodal.errors import DataError
from trimodal.loading.load import load_from_factory

X, Y = torch.arange(24.0).reshape(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        y: Tensor = self.layer(x) * (1 if scale is None else scale)
        return y


def encode(samples: list[Sample]) -> dict[str, Tensor]:
    return encode_samples(load_from_factory(Net(), "net"), samples)


ROWS: dict[str, Any] = {
    "by name": [{"x": x, "label": y} for x, y in zip(X, Y)], "labels of a loss": [{"x": x, "labels": y} for x, y in zip(X, Y)],
    "arrays": [{"x": np.asarray(x, dtype=np.float64), "label": int(y)} for x, y in zip(X, Y)],
    "lists": [{"x": x.tolist(), "label": int(y)} for x, y in zip(X, Y)], "pairs": list(zip(X, Y)), "dataset": TensorDataset(X, Y),
    "loader of pairs": DataLoader(TensorDataset(X, Y), batch_size=4), "stream": ((x, y) for x, y in zip(X, Y)),
    "loader of dicts": DataLoader([{"x": x, "label": y} for x, y in zip(X, Y)], batch_size=4),  # type: ignore[arg-type]
    "loader of rows": DataLoader(TensorDataset(X, Y), batch_size=4, collate_fn=list),
    "mapped": open_data([{"x": x, "y": y} for x, y in zip(X, Y)], map={"label": "y"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_the_same_inputs_however_they_are_given(kind: str) -> None:
    samples = read_samples(ROWS[kind])
    assert [s.label for s in samples] == Y.tolist() and samples[0].modalities == frozenset()
    batch = encode(samples)
    assert list(batch) == ["x"] and torch.equal(batch["x"], X) and batch["x"].dtype == torch.float32


def test_tensors_alone_and_several_in_order() -> None:
    assert torch.equal(encode(read_samples(list(X)))["x"], X)
    batch = encode(read_samples([(x, torch.full((1,), 2.0)) for x in X]))
    assert torch.equal(batch["x"], X) and batch["scale"].shape == (6, 1)
    with pytest.raises(DataError, match="a row has 3 tensors or more, and forward takes x, scale"):
        encode(read_samples([(x, x, x) for x in X]))


def test_a_loss_s_tensor_is_left_out_and_groups_and_splits_stay() -> None:
    (sample,) = read_samples([{"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([1, 2]), "group": "g", "split": "test"}])
    assert (sample.label, sample.group, sample.split) == (None, "g", "test")
    assert sample.inputs is not None and sample.inputs.shapes == (("input_ids", (2,)),)


def test_inputs_go_together_by_shape_and_are_known_by_content() -> None:
    rows = [{"x": torch.zeros(n, 4) + i} for i, n in enumerate((2, 3, 2, 3, 2))]
    samples = read_samples(rows)
    batches = batch_samples(make_toy_model(), samples, 2)
    assert batches.rows == [[0, 2], [4], [1, 3]] and batches[2]["x"].shape == (2, 3, 4)
    assert samples[0].inputs == read_samples([rows[0]])[0].inputs != samples[2].inputs
    assert digest_samples(samples[:1]) != digest_samples(samples[2:3])
    twins = read_samples([{"x": torch.zeros(4)}] * 5 + [{"x": torch.ones(4)}])
    _, held_out = split_calibration_and_held_out(twins, seed=0)
    assert len(held_out) in (1, 5)  # twins are never parted


def test_rows_that_change_are_told() -> None:
    class Noise:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"x": torch.randn(4)}

    samples = read_samples(Noise())
    with pytest.raises(DataError, match="the given Noise, row 1: is not what the row gave first"):
        encode(samples)


def test_tensors_and_texts_do_not_mix() -> None:
    with pytest.raises(DataError, match="row 1 holds tensors for the model, and the given list, row 2 does not"):
        check_modalities(make_toy_model(), read_samples([{"x": X[0]}, {"text": "a"}]))


def test_what_is_not_finite_is_told_by_its_row() -> None:
    with pytest.raises(DataError, match="row 2: x holds 1 numbers that are not finite"):
        encode(read_samples([X[0], X[0].index_fill(0, torch.tensor([1]), float("nan"))]))

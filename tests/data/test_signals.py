"""Signals: the same numbers from whatever they come, what a model of streams is given of them, and what is said of bad ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from trimodal.core import Sample
from trimodal.data import (
    check_media,
    check_modalities,
    check_signals,
    digest_samples,
    encode_samples,
    group_by_modality,
    load_sample,
    open_data,
    read_samples,
)
from trimodal.errors import DataError
from trimodal.loading.load import build_model
from trimodal.models.model import Model
from trimodal.networks.multimodal import MultimodalConfig, MultimodalModel
from trimodal.networks.tiny import make_miniature

SERIES = [[81.0, 36.5], [80.0, 36.75], [78.5, 37.0]]
STREAMS: dict[str, Any] = {
    "vitals": {"modality": "signal", "channels": 2, "length": 4, "width": 16, "blocks": 0},
    "signal": {"modality": "signal", "channels": 1, "length": 3, "width": 16, "blocks": 0},
}


@pytest.fixture
def model() -> Model:
    settings: dict[str, Any] = {"fusion": "late", "fusion_width": 16, "num_labels": 2}
    network: Any = MultimodalModel(MultimodalConfig(streams=STREAMS, **settings))
    return build_model(network.eval(), "streams")


def write_lines(folder: Path, *lines: dict[str, Any]) -> Path:
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def by_npy(folder: Path) -> Any:
    np.save(folder / "a.npy", np.asarray(SERIES))
    return write_lines(folder, {"signal.vitals": "a.npy", "label": 1})


def by_table(folder: Path) -> Any:
    (folder / "a.csv").write_text("pulse;temperature\n" + "\n".join(f"{a};{b}" for a, b in SERIES), encoding="utf-8")
    return write_lines(folder, {"signal.vitals": "a.csv", "label": 1})


def by_cell(folder: Path) -> Any:
    (folder / "data.csv").write_text(f'signal.vitals,label\n"{SERIES}",1\n', encoding="utf-8")
    return folder / "data.csv"


def by_parquet(folder: Path) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"signal.vitals": [SERIES], "label": [1]}), folder / "data.parquet")
    return folder / "data.parquet"


WAYS: dict[str, Callable[[Path], Any]] = {
    "npy": by_npy, "table": by_table, "cell": by_cell, "parquet": by_parquet,
    "inline": lambda folder: write_lines(folder, {"signal.vitals": SERIES, "label": 1}),
    "nested": lambda folder: write_lines(folder, {"signal": {"vitals": SERIES, "radar": None}, "label": 1}),
    "list": lambda _: [{"signal.vitals": SERIES, "label": 1}],
    "array": lambda _: [{"signal.vitals": np.asarray(SERIES), "label": 1}],
    "tensor": lambda _: iter([{"signal.vitals": torch.tensor(SERIES), "label": 1}]),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_same_numbers_from_whatever_they_come(way: str, tmp_path: Path) -> None:
    (sample,) = read_samples(WAYS[way](tmp_path))
    check_media([sample])
    loaded = load_sample(sample, ["signal.vitals"]).signals["signal.vitals"]
    assert loaded.dtype == np.float32 and loaded.tolist() == SERIES
    assert sample.modalities == {"signal.vitals"} and sample.label == 1


def test_columns_are_joined_by_a_map(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("age,weight,ill\n63,81.5,yes\n20,,no\n", encoding="utf-8")
    source = open_data(tmp_path / "data.csv", map={"signal.table": "age+weight", "text": "ill"})
    first, second = read_samples(source)
    assert load_sample(first, first.modalities).signals["signal.table"].tolist() == [63.0, 81.5]
    assert second.modalities == {"text"}  # a cell is empty, so the row of numbers is missing
    with pytest.raises(DataError, match="has no column 'wait', which the map names; did you mean 'weight'"):
        read_samples(open_data(tmp_path / "data.csv", map={"signal.table": "age+wait", "text": "ill"}))


def test_a_stream_is_given_what_is_real_and_its_mask(model: Model, tmp_path: Path) -> None:
    samples = read_samples(write_lines(tmp_path, {"signal.vitals": SERIES, "signal": [1, 2]}, {"signal.vitals": [[1, 2]], "signal": [3]}))
    check_modalities(model, samples)
    batch = encode_samples(model, samples)
    assert batch["vitals"].tolist() == [SERIES, [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]]
    assert batch["vitals_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["signal"].tolist() == [[[1.0], [2.0]], [[3.0], [0.0]]]
    assert batch["vitals_present"].tolist() == batch["signal_present"].tolist() == [1, 1]
    alone = encode_samples(model, samples[1:])
    with torch.no_grad():
        torch.testing.assert_close(model.module(**batch).logits[1:], model.module(**alone).logits)


def test_samples_that_lack_a_signal_go_by_themselves(model: Model, tmp_path: Path) -> None:
    both = {"signal.vitals": SERIES, "signal": 1}
    samples = read_samples(write_lines(tmp_path, both, {"signal": 2}, {**both, "label": 1}))
    assert group_by_modality(model, samples, 8) == [[0, 2], [1]]
    assert set(encode_samples(model, samples[1:2])) == {"signal", "signal_mask", "signal_present"}


def test_the_digest_is_that_of_the_numbers(tmp_path: Path) -> None:
    first, again, other = (
        digest_samples(read_samples([{"signal.vitals": value}])) for value in (SERIES, np.asarray(SERIES), SERIES[:2])
    )
    assert first == again != other
    assert digest_samples([Sample(1, text="a")]) == digest_samples(read_samples([{"text": "a"}]))


def test_a_module_of_ones_own_takes_them_by_name(tmp_path: Path) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = nn.Linear(2, 3)

        def forward(self, vitals: Tensor) -> Tensor:
            return self.score(vitals).mean(dim=1)  # type: ignore[no-any-return]

    reader = build_model(Reader(), "reader")
    samples = read_samples(write_lines(tmp_path, {"signal.vitals": SERIES}, {"signal.vitals": SERIES}))
    check_modalities(reader, samples)
    assert encode_samples(reader, samples)["vitals"].tolist() == [SERIES, SERIES]
    uneven = read_samples(write_lines(tmp_path, {"signal.vitals": SERIES}, {"signal.vitals": SERIES[:1]}))
    with pytest.raises(DataError, match=r"line 2: signal.vitals has the shape \(1, 2\), and \(3, 2\) in .*line 1; .* arrays of one shape"):
        encode_samples(reader, uneven)


BAD: list[tuple[Any, str]] = [
    ([[1.0, float("nan")]], r"line 1: signal.vitals holds 1 values that are no finite number, the first \(nan\) at step 0, channel 1"),
    ([[1, 2], [3]], "line 1: signal.vitals is .*, rows of unlike lengths or no numbers; expected numbers"),
    ([[1, None]], "line 1: signal.vitals is .*; expected numbers, as one row or as steps × channels"),
    ([[[1]]], r"line 1: signal.vitals is .*\(shape \(1, 1, 1\)\)"),
    ([], r"line 1: signal.vitals holds no number"),
    (True, r"line 1: signal.vitals is True"),
    ("no.npy", "line 1: signal.vitals names 'no.npy', which is not a file"),
    ("data.jsonl", "line 1: signal.vitals .*data.jsonl ends in .jsonl; expected one of .npy, .csv"),
    ("cut.npy", "line 1: signal.vitals .*cut.npy cannot be read"),
    ("words.csv", "line 1: signal.vitals .*words.csv cannot be read"),
    ("hole.csv", r"line 1: signal.vitals .*hole.csv holds 1 values that are no finite number, the first \(nan\) at step 1, channel 0"),
    ([[1, 2, 3]], r"line 1: signal.vitals has 3 numbers per step \(shape \(1, 3\)\), and the stream vitals takes 2"),
    ([[1] * 3, [2] * 3], "it seems to be channels × steps, turn it"),
    ([[1, 2]] * 5, "line 1: signal.vitals has 5 steps, and the stream vitals takes at most 4; cut it into windows"),
]


@pytest.mark.parametrize(("value", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_what_is_wrong_with_it(value: Any, message: str, model: Model, tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", np.zeros((3, 2)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-8])
    (tmp_path / "words.csv").write_text("a,b\n1,x\n", encoding="utf-8")
    (tmp_path / "hole.csv").write_text("a,b\n1,2\n,3\n", encoding="utf-8")
    write_lines(tmp_path, {"signal.vitals": value, "signal": [1]})
    with pytest.raises(DataError, match=message):
        _check_all(model, tmp_path)


def test_a_name_with_a_slip_in_it_is_not_lost(model: Model, tmp_path: Path) -> None:
    line = {"signal.vitals": SERIES, "signal": 1}
    with pytest.raises(DataError, match=r"line 2 has signal.vital, but streams .* takes .*; did you mean 'signal.vitals'"):
        _check_all(model, write_lines(tmp_path, line, {"signal.vital": SERIES, "signal": 1}))
    with pytest.raises(DataError, match=r"no line has signal.vitals, but"):
        _check_all(model, write_lines(tmp_path, {"signal": 1}))
    with pytest.raises(DataError, match=r"all others have signal.vitals, but bert .* takes text; leave that field out"):
        bert = build_model(make_miniature("bert"), "bert")
        check_modalities(bert, read_samples([{"text": "a", "signal.vitals": SERIES}]))


def test_a_row_with_a_picture_and_a_signal_is_a_sample() -> None:
    (sample,) = read_samples([{"image": Image.new("RGB", (4, 4)), "signal": torch.tensor([1.0, 2.0])}])
    assert sample.modalities == {"image", "signal"} and sample.inputs is None
    (tensors,) = read_samples([{"pixel_values": torch.zeros(3, 4, 4), "signal": torch.tensor([1.0, 2.0])}])
    assert tensors.inputs is not None and {name for name, _ in tensors.inputs.shapes} == {"pixel_values", "signal"}


def _check_all(model: Model, folder: Path) -> None:
    samples = read_samples(folder)
    check_modalities(model, samples)
    check_media(samples)
    check_signals(model, samples)


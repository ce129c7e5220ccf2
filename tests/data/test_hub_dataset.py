"""Datasets of `datasets`: saved ones with their splits, classes and encoded images; what the hub is asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trimodal.data import hub_dataset, load_sample, open_data, read_samples
from trimodal.data.columns import NO_MAP, make_column_map
from trimodal.data.hub_dataset import is_hub_id, load_dataset
from trimodal.errors import DataError

MAP = {"image": "picture", "label": "kind"}


@pytest.fixture
def pictures(folder: Path) -> Any:
    """Four rows with a picture as the bytes of its file, and a class, of which the last has none."""
    datasets = pytest.importorskip("datasets")
    content = [{"bytes": (folder / "seven.png").read_bytes(), "path": None}] * 4
    kinds = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"picture": datasets.Image(), "kind": kinds, "note": datasets.Value("string")})
    return datasets.Dataset.from_dict({"picture": content, "kind": [0, 1, 1, -1], "note": list("abcd")}, features=features)


def test_a_saved_dataset_is_the_one_in_memory(pictures: Any, folder: Path) -> None:
    pictures.save_to_disk(folder / "saved")
    saved, held = (read_samples(open_data(data, map=MAP)) for data in (folder / "saved", pictures.select(range(3))))
    assert [s.label for s in saved] == [0, 1, 1, None] and [s.label for s in held] == [0, 1, 1]
    assert [s.image for s in saved[:3]] == [s.image for s in held]
    assert np.asarray(load_sample(saved[0]).image).shape == (6, 8, 3)
    assert saved[1].where == f"{folder / 'saved'}, row 2"


def test_splits_of_a_saved_dataset_are_those_of_the_samples(pictures: Any, folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {"train": pictures.select(range(2)), "validation": pictures.select([2]), "unsupervised": pictures.select([3])}
    datasets.DatasetDict(parts).save_to_disk(folder / "saved")
    assert [s.split for s in read_samples(open_data(folder / "saved", map=MAP))] == ["train", "train", "test"]
    assert [s.split for s in read_samples(open_data(folder / "saved" / "train", map=MAP))] == ["", ""]


def test_a_damaged_one_is_told(pictures: Any, folder: Path) -> None:
    pictures.save_to_disk(folder / "saved")
    next((folder / "saved").glob("*.arrow")).unlink()
    with pytest.raises(DataError, match=r"saved cannot be read as a saved dataset .*; write it again with save_to_disk"):
        read_samples(folder / "saved")


def test_what_the_hub_is_asked_for(pictures: Any, folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (folder / "local").mkdir()
    pictures.to_parquet(folder / "local" / "train-00000-of-00001.parquet")
    source = load_dataset(datasets, str(folder / "local"), None, make_column_map(MAP))  # as an id, which can be a folder
    assert [s.label for s in read_samples(source)] == [0, 1, 1, None] and source.name == f"the dataset {folder / 'local'}"


def test_an_id_and_its_configuration_are_parted_and_an_error_says_both() -> None:
    asked: list[Any] = []

    def load(name: str, config: str | None) -> Any:
        asked.append((name, config))
        raise ConnectionError("no net")

    module: Any = SimpleNamespace(load_dataset=load)
    with pytest.raises(DataError, match=r"there is no file or folder nyu/glue, and no hub dataset .* \(ConnectionError: no net\)"):
        load_dataset(module, "nyu/glue", "sst2", NO_MAP)
    assert asked == [("nyu/glue", "sst2")]


def test_unknown_splits_are_told(folder: Path) -> None:
    with pytest.raises(DataError, match="has the splits a, b; expected train, test or validation"):
        hub_dataset._make_source({"a": None, "b": None}, NO_MAP, "it", folder)


@pytest.mark.parametrize(("text", "whether"), [
    ("stanfordnlp/imdb", True), ("nyu-mll/glue:sst2", True), ("rows.csv", False), ("data/rows.csv", False), ("./a/b", False),
    ("/a/b", False), ("imdb", False), ("a/b/c", False), ("tests/nothing", False),
])  # fmt: skip
def test_what_may_be_a_hub_id(text: str, whether: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert is_hub_id(text) == whether

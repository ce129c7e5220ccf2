"""Parquet: rows by number, whatever their row group; paths, bytes, splits by file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trimodal.data import load_sample, open_data, read_samples
from trimodal.data.parquet import open_parquet
from trimodal.errors import DataError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(file: Path, rows: list[dict[str, Any]], group: int = 2) -> Path:
    file.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=group)
    return file


def test_rows_come_in_order_and_fields_from_columns(tmp_path: Path) -> None:
    rows = [{"sentence": f"text {i}", "y": i % 3, "labels.image": i, "idx": i} for i in range(7)]
    file = write(tmp_path / "rows.parquet", rows)
    samples = read_samples(open_data(file, map={"text": "sentence", "label": "y"}))
    assert [(s.text, s.label, s.labels) for s in samples] == [(f"text {i}", i % 3, {"image": i}) for i in range(7)]
    assert samples[6].where == f"{file}, row 7"
    with pytest.raises(DataError, match=r"row 1: unknown field 'sentence'; .* of \['sentence', 'y', 'labels', 'idx'\]|'idx'"):
        read_samples(file)


def test_images_are_paths_beside_the_file_or_bytes_in_it(folder: Path) -> None:
    content = (folder / "seven.png").read_bytes()
    by_path = read_samples(write(folder / "a.parquet", [{"image": "seven.png"}]))
    by_struct = read_samples(write(folder / "b.pq", [{"image": {"bytes": None, "path": "seven.png"}}]))
    assert by_path[0].image == by_struct[0].image == folder / "seven.png"
    for value in (content, {"bytes": content, "path": None}):
        (found,) = read_samples(write(folder / "c.parquet", [{"image": value}]))
        assert list(load_sample(found).image.getdata()) == list(load_sample(by_path[0]).image.getdata())  # type: ignore[union-attr]


def test_one_row_group_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "rows.parquet", [{"text": f"{i}"} for i in range(6)])
    from trimodal.data import parquet as own

    read: list[int] = []
    original = own._read_group
    monkeypatch.setattr(own, "_read_group", lambda module, file, group: read.append(group) or original(module, file, group))
    assert len(read_samples(file)) == 6 and read == [0, 1, 2]


def test_files_of_a_folder_are_splits(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00002.parquet", [{"text": "a"}])
    write(tmp_path / "data" / "train-00001-of-00002.parquet", [{"text": "b"}])
    assert [(s.text, s.split) for s in read_samples(tmp_path)] == [("a", ""), ("b", "")]
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", [{"text": "c"}])
    assert [(s.text, s.split) for s in read_samples(tmp_path)] == [("a", "train"), ("b", "train"), ("c", "test")]


def test_a_damaged_file_is_told_whatever_it_is_called(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.parquet", [{"text": "a"}])
    (tmp_path / "renamed.dat").write_bytes(file.read_bytes())
    assert read_samples(tmp_path / "renamed.dat")[0].text == "a"
    (tmp_path / "cut.dat").write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cut\.dat is no whole Parquet file .*; copy or download it again"):
        read_samples(tmp_path / "cut.dat")
    with pytest.raises(DataError, match="holds no rows"):
        read_samples(write(tmp_path / "empty.parquet", []))


def test_it_is_a_source_that_knows_its_place(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.parquet", [{"text": "a"}])
    assert open_parquet(file, open_data([])._columns).place == file  # type: ignore[attr-defined]

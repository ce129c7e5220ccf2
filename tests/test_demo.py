"""The demo replaces what a demo wrote, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimodal import demo
from trimodal.data.seehearread import write_dataset
from trimodal.errors import OutputError


@pytest.mark.parametrize("name", ["demo-model", "demo-data", "demo-out"])
def test_folder_of_the_users_own_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("mine")
    with pytest.raises(OutputError, match=f"{name} was not written by an earlier demo"):
        demo.run(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [name, f"{name}/mine"]


def test_data_of_an_earlier_demo_are_known(tmp_path: Path) -> None:
    write_dataset(tmp_path / "demo-data", train=2, test=2, seed=0)
    demo._check_ours(tmp_path / "demo-data", "data.jsonl", '"writer-')
    with pytest.raises(OutputError, match="is not empty"):
        write_dataset(tmp_path / "demo-data", train=2, test=2, seed=0)

"""The demo replaces what a demo wrote, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trimodal import cli
from trimodal.demo import answering, table
from trimodal.demo import run as demo
from trimodal.demo.seehearread import write_dataset
from trimodal.errors import OutputError


@pytest.mark.parametrize("name", ["demo-model", "demo-data", "demo-out"])
def test_folder_of_the_users_own_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("mine")
    with pytest.raises(OutputError, match=f"{name} was not written by an earlier demo"):
        demo.run_demo(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [name, f"{name}/mine"]


def test_data_of_an_earlier_demo_are_known(tmp_path: Path) -> None:
    write_dataset(tmp_path / "demo-data", train=2, test=2, seed=0)
    demo._check_is_demo_folder(tmp_path / "demo-data", "data.jsonl", '"writer-')
    with pytest.raises(OutputError, match="is not empty"):
        write_dataset(tmp_path / "demo-data", train=2, test=2, seed=0)


def test_what_next_names_the_folders_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    done = SimpleNamespace(verdict=None, plan=None, folder=tmp_path / "demo-out")
    monkeypatch.setattr(demo, "run_demo", lambda *args, **rest: done)
    monkeypatch.setattr(cli, "_finish_run", lambda verdict, plan, as_json, message, *names: shown.extend(names))
    run: list[Path] = []
    monkeypatch.setattr(answering, "run_exported", lambda model, data, out, tell: run.extend([model, data, out]))
    monkeypatch.setattr(table, "make_demo_table", lambda done: "it answers")
    monkeypatch.setattr(sys, "argv", ["trimodal", "demo", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code and shown == [str(tmp_path / f"demo-{name}") for name in ("out", "model", "data")]
    assert run == [tmp_path / f"demo-{name}" for name in ("model", "data", "out")] and "it answers" in capsys.readouterr().out

"""docs/targets.md: its examples run, and it names every target."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trimodal.targets import list_targets, read_target

PAGE = (Path(__file__).parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0], {})
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert (first, fourth) == ("None", "True") and "fail when they are run" in second and "Gather" in third


def test_the_file_of_ones_own_is_one(tmp_path: Path) -> None:
    (tmp_path / "box.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
    box = read_target(tmp_path / "box.yaml")
    assert box.name == "box" and box.weights["conv"] == () and box.weights["linear"] == read_target("onnxruntime-vnni").weights["linear"]


def test_every_target_is_on_the_page() -> None:
    assert all(f"| `{name}` |" in PAGE for name in list_targets())

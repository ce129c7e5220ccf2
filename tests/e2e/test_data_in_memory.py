"""The main job with rows in memory in place of a data file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from calling import Workspace
from PIL import Image

import trimodal

RECIPE = {"steps": [{"quantize.gptq": {"bits": 4}}], "calibration": {"samples": 12}}


@pytest.fixture
def rows(workspace: Workspace) -> list[dict[str, Any]]:
    """The lines of the data file, with the pictures themselves."""
    file = workspace.data("image", "text")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{**line, "image": Image.open(file.parent / line["image"])} for line in lines]


def test_rows_give_the_same_weights_as_the_file_and_are_known_again(
    workspace: Workspace, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    model = workspace.model("clip")
    by_file = trimodal.compress(str(model), RECIPE, workspace.data("image", "text"), tmp_path / "file")
    by_rows = trimodal.compress(str(model), RECIPE, rows, tmp_path / "rows")
    weights = [(one.folder / "trimodal.safetensors").read_bytes() for one in (by_file, by_rows)]
    assert weights[0] == weights[1]
    assert by_file.verdict.metrics == by_rows.verdict.metrics
    assert by_file.plan.calibration.samples == by_rows.plan.calibration.samples == 12
    again = trimodal.verify(tmp_path / "rows", str(model), rows)
    assert again.metrics == by_rows.verdict.metrics  # measured on the held-out part, for the rows were known again


def test_a_row_that_cannot_be_used_is_refused_before_any_work(
    workspace: Workspace, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows[4]["image"] = "gone.png"
    with pytest.raises(trimodal.DataError, match=r"the given list, row 5: image names 'gone\.png', which is not a file"):
        trimodal.compress(str(workspace.model("clip")), RECIPE, rows, tmp_path / "out")
    with pytest.raises(trimodal.DataError, match="the data is a int; expected a JSONL file"):
        trimodal.plan(str(workspace.model("clip")), RECIPE, 3)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()

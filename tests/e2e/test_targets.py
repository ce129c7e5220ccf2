"""What a target cannot take is said before any work, by `plan` and by `compress`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from calling import Done, Workspace, call, said_clearly

from trimodal import pipeline

Refused = Callable[..., Done]


def test_plan_says_by_place_what_is_taken_otherwise(workspace: Workspace, tmp_path: Path) -> None:
    model, data = workspace.model("vit"), workspace.data("image")
    file = tmp_path / "plan.json"
    done = call("plan", model, "--recipe", "int8-full", "--data", data, "--target", "openvino-avx2", "-o", file)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "target openvino-avx2: of 14 places 0 taken as stored, 14 decoded when loaded, 0 refused" in said
    assert "decoded to float when loaded (u8 × s8 products saturate here and are no quicker than float32" in said
    assert "image.0.query, image.0.key" in said
    target = json.loads(file.read_text())["target"]
    assert (target["target"], target["asked"], target["decoded"]) == ("openvino-avx2", 14, 14)
    shown = call("plan", model, "--recipe", "int8-full", "--data", data, "--target", "openvino-avx2", "--json")
    assert json.loads(shown.out)["target"] == target


def test_nothing_of_a_plan_can_be_taken(workspace: Workspace, refused: Refused) -> None:
    model = workspace.model("vit")
    asked = ("--recipe", "int4-even", "--data", workspace.data("image"), "--target", "executorch-xnnpack")
    done = call("plan", model, *asked)
    assert done.code == 2 and done.out == ""
    said_clearly(done.err, "executorch-xnnpack can take nothing", "image.0.query", "inputs must be quantized", "trimodal targets")
    refused(["compress", model, *asked, "-o", "out"], "executorch-xnnpack can take nothing")


def test_a_target_of_ones_own(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    mine = tmp_path / "box.yaml"
    mine.write_text("like: litert\nabout: our box\nparts: {scaled_columns: {level: refused, why: no MUL here}}\n")
    model, data = workspace.model("vit"), workspace.data("image")
    done = call("compress", model, "--recipe", "int8-full", "--data", data, "--target", mine, "-o", tmp_path / "out")
    assert done.code == 2 and not (tmp_path / "out").exists()
    said_clearly(done.err, "box can take nothing", "no MUL here")
    mine.write_text(mine.read_text().replace("refused", "decoded"))
    done = call("compress", model, "--recipe", "int8-full", "--data", data, "--target", mine, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "target box: of 14 places 0 taken as stored, 14 decoded when loaded" in done.err and "no MUL here" in done.err
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["target"]["target"] == "box"
    assert call("targets", mine).out.startswith("box: our box")

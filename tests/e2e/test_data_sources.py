"""One data in several forms: the same artifact; and a module in memory with tensors and a metric of its own."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from calling import Workspace, call
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import CLIPModel

import trimodal
from trimodal.networks.tiny import write_miniature, write_miniature_data

RECIPE = {"steps": [{"quantize.gptq": {"bits": 4, "group": 16}}], "calibration": {"samples": 12}}
TOLD = ("plan.json", "record.jsonl", "verdict.json", "report.html", "checks.sha256", "trimodal.json")
MAP = {"image": "picture", "label": "kind"}


def digest(folder: Path) -> dict[str, str]:
    """sha256 of every file that is needed to run the model."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.name not in TOLD}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 pictures of two classes: a folder `files` with a folder for each, JSONL and CSV that name them by other names."""
    folder = tmp_path_factory.mktemp("pictures")
    made = write_miniature_data(folder / "made", 16, ("image",))
    rows = []
    for number, line in enumerate(map(json.loads, made.read_text().splitlines())):
        kind = number // 8
        path = Path("files", ("cat", "dog")[kind], f"{number:02}.png")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "made" / line["image"], folder / path)
        rows.append({"picture": path.as_posix(), "kind": kind})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "rows.csv").open("w", newline="") as opened:
        writer = csv.DictWriter(opened, ["picture", "kind"], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_a_folder_a_csv_file_and_jsonl_give_the_same_artifact(pictures: Path, tmp_path: Path) -> None:
    model = write_miniature("vit", tmp_path / "vit")
    given = [trimodal.open_data(pictures / "rows.jsonl", map=MAP), trimodal.open_data(pictures / "rows.csv", map=MAP), pictures / "files"]
    results = [trimodal.compress(str(model), RECIPE, data, tmp_path / f"out-{i}") for i, data in enumerate(given)]
    first, *others = (digest(result.folder) for result in results)
    assert others == [first, first] and "config.json" in first and "trimodal.safetensors" in first
    assert {result.verdict.metrics for result in results} == {results[0].verdict.metrics}
    assert {result.plan.calibration.sha256 for result in results} == {results[0].plan.calibration.sha256}  # they name the same files
    again = trimodal.verify(tmp_path / "out-0", str(model), pictures / "files")
    assert again.metrics == results[0].verdict.metrics


def test_the_command_line_maps_columns(workspace: Workspace, pictures: Path, tmp_path: Path) -> None:
    model, file = workspace.model("vit"), str(pictures / "rows.csv")
    done = call("plan", model, "--recipe", "int4", "--data", file, "--map", "image=picture,label=kind", "--json")
    assert done.code == 0 and json.loads(done.out)["calibration"]["samples"] == 13
    done = call("plan", model, "--recipe", "int4", "--data", file, "--map", "image=pictures")
    assert done.code == 2 and "has no column 'pictures', which the map names; did you mean 'picture'" in done.err
    done = call("plan", model, "--recipe", "int4", "--data", file)
    assert done.code == 2 and "unknown field 'picture'" in done.err and "--map text=sentence" in done.err


def test_data_are_not_replaced_by_the_result(pictures: Path, tmp_path: Path) -> None:
    model = write_miniature("vit", tmp_path / "vit")
    source = trimodal.open_data(pictures / "files")
    with pytest.raises(trimodal.OutputError, match="the data"):
        trimodal.compress(str(model), RECIPE, source, pictures, force=True)
    assert (pictures / "rows.csv").is_file()


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).train()


def test_a_module_in_memory_stays_and_is_measured_by_its_own_metric(net: nn.Module, tmp_path: Path) -> None:
    inputs = torch.randn(80, 16)
    truth = net(inputs).argmax(1)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def accuracy(module: nn.Module) -> Tensor:
        return (module(inputs).argmax(1) == truth).float()

    def loader() -> Any:
        return DataLoader(TensorDataset(inputs, truth), batch_size=32)

    result = trimodal.compress(net, {**RECIPE, "floors": {"all": 90}}, loader(), tmp_path / "out", evaluate=accuracy)
    assert net.training and all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    own = result.verdict.metrics[0]
    assert (own.name, own.unit, own.samples, own.before) == ("accuracy", "score", 80, 1.0)
    assert result.plan.source.name == "Sequential" and result.plan.calibration.samples == 12
    loaded: Any = trimodal.load(tmp_path / "out", factory=net)  # type: ignore[arg-type]
    assert float(accuracy(loaded).mean()) == pytest.approx(own.after)
    assert (tmp_path / "out" / "report.html").read_text().count("Scores of your own; more is better") == 1
    again = trimodal.verify(tmp_path / "out", net, loader(), evaluate=accuracy)
    assert again.metrics == result.verdict.metrics  # held out is what was held out
    assert any(check.name.startswith("accuracy: drop at most 0.9") for check in again.checks)


def test_a_metric_of_ones_own_needs_no_data(net: nn.Module, tmp_path: Path) -> None:
    recipe = {"steps": [{"quantize.rtn": {"bits": 8}}], "floors": {"all": 1}}
    result = trimodal.compress(net, recipe, None, tmp_path / "out", evaluate=lambda module: float(module(torch.ones(1, 16)).sum().exp()))
    (own,) = result.verdict.metrics
    assert own.name == "score" and own.before != own.after and result.verdict.quality == "passed"
    with pytest.raises(trimodal.DataError, match="there are no held-out samples"):
        trimodal.compress(net, recipe, None, tmp_path / "new")


def test_a_model_of_transformers_in_memory_knows_its_processors(workspace: Workspace, tmp_path: Path) -> None:
    folder, data = workspace.model("clip"), workspace.data("image", "text")
    module = CLIPModel.from_pretrained(folder)
    by_folder, by_module = (trimodal.plan(source, RECIPE, data) for source in (str(folder), module))
    assert by_folder.calibration == by_module.calibration and by_folder.edits == by_module.edits
    result = trimodal.compress(module, RECIPE, data, tmp_path / "out")
    loaded = trimodal.load(tmp_path / "out", factory=module)  # type: ignore[arg-type]
    assert isinstance(loaded, CLIPModel) and result.plan.source.name == "CLIPModel"

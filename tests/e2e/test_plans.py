"""Plans are executed: planned, edited by hand, compressed, each by a command of its own; what does not fit is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calling import Done, Workspace, process
from safetensors.torch import load_file, save_file

from trimodal import pipeline
from trimodal.errors import OutputError, RecipeError
from trimodal.planning import read_plan_file

Refused = Callable[..., Done]
RECIPE = {
    "seed": 3, "calibration": {"samples": 8, "balance": "tokens"}, "floors": {"all": 50.0},
    "steps": [
        {"prune.heads": {"where": "image.*", "sparsity": 0.5}},
        {"quantize.rtn": {"where": "*embedding*", "bits": 8}},
        {"quantize.gptq": {"where": "*", "bits": 4, "group": 16}},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(workspace: Workspace) -> tuple[Path, Path]:
    return workspace.model("clip"), workspace.data("image", "text")


@pytest.fixture(scope="module")
def planned(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plan.json`, written by a process of its own, from an inventory that another one has written."""
    folder = tmp_path_factory.mktemp("planned")
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE))  # JSON is YAML
    model, data = inputs
    done = process("inspect", model, "-o", folder / "inventory.json")
    assert done.code == 0, done.err
    asked = ("--recipe", folder / "recipe.yaml", "--data", data, "--inventory", folder / "inventory.json")
    done = process("plan", model, *asked, "-o", folder / "plan.json")
    assert done.code == 0, done.err
    return folder / "plan.json"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fresh process: what it checks is tested elsewhere."""
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "trimodal.safetensors").read_bytes()).hexdigest()


def test_plan_edit_compress(inputs: tuple[Path, Path], planned: Path, tmp_path: Path) -> None:
    """Each in a process of its own: other bits at one place, one place taken out, one edit deleted."""
    model, data = inputs
    plan = read(planned)
    cut, embeddings, rest = plan["edits"]
    assert (cut["method"], embeddings["method"], rest["method"]) == ("prune.heads", "quantize.rtn", "quantize.gptq")
    place = next(place for place in rest["places"] if place["name"] == "text.0.up")
    place["config"] = {"bits": 2}
    gone = next(place for place in rest["places"] if place["name"] == "text.1.up")
    rest["places"].remove(gone)
    plan["edits"] = [embeddings, rest]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    done = process("compress", model, "--plan", "plan.json", "--data", data, "-o", "out", cwd=tmp_path)
    assert done.code == 0, done
    assert done.err.startswith("recomputed from the plan's edits: ") and "more places, and what stays untouched" in done.err
    made = read(tmp_path / "out" / "plan.json")
    assert [edit["method"] for edit in made["edits"]] == ["quantize.rtn", "quantize.gptq"]
    told = {line["place"]: line for line in map(json.loads, (tmp_path / "out" / "record.jsonl").read_text().splitlines())}
    assert "text.1.up" not in told and told["text.0.up"]["bytes_after"] < place["bytes_after"]
    sites = {site["path"]: site for site in read(tmp_path / "out" / "trimodal.json")["sites"]}
    assert sites[place["paths"][0]]["stored_bytes"] == told["text.0.up"]["bytes_after"]
    assert sites[gone["paths"][0]].get("stored", "dense") == "dense"
    assert sites["vision_model.encoder.layers.0.self_attn.q_proj"]["shape"] == [32, 32]
    untouched = {group["name"] for group in made["untouched"]["alike"]}
    assert "text_model.encoder.layers.1.mlp.fc1.weight" in untouched
    checks = {check["name"]: check["status"] for check in read(tmp_path / "out" / "verdict.json")["checks"]}
    assert checks["bytes as planned"] == checks["reloads in a fresh process"] == "passed"
    assert any(check["about"] == "quality" for check in read(tmp_path / "out" / "verdict.json")["checks"])


@pytest.mark.usefixtures("quick")
def test_same_plan_same_bytes(inputs: tuple[Path, Path], planned: Path, tmp_path: Path) -> None:
    model, data = inputs
    asked = pipeline.compress(model, RECIPE, data, tmp_path / "asked")
    once = pipeline.compress(model, plan=planned, data=data, out=tmp_path / "once", inventory=planned.with_name("inventory.json"))
    again = pipeline.compress(model, asked.plan, data, tmp_path / "again")
    assert weights(tmp_path / "asked") == weights(tmp_path / "once") == weights(tmp_path / "again")
    assert asked.plan == once.plan == again.plan and once.plan.recomputed == again.plan.recomputed == ""
    assert read(tmp_path / "asked" / "plan.json") == read(tmp_path / "once" / "plan.json") == read(planned)
    assert once.plan.calibration.balance == "tokens" and once.plan.calibration.samples == 8
    floors = [check.name for check in asked.verdict.checks if check.about == "quality"]
    assert floors and floors == [check.name for check in once.verdict.checks if check.about == "quality"]


def test_macs_of_an_inventory_are_not_counted_again(
    inputs: tuple[Path, Path], planned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = inputs
    inventory = read(planned.with_name("inventory.json"))
    small, large = ({**inventory, "macs": inventory["macs"] * times} for times in (1, 1000))
    monkeypatch.setattr(pipeline, "take_inventory", None)
    seconds = []
    for given in (small, large):
        made = pipeline.plan(model, RECIPE, data, inventory=given)
        assert made.estimate is not None
        seconds.append(made.estimate.seconds["verify"])
    assert seconds[1] > seconds[0]


@pytest.mark.usefixtures("quick")
def test_a_plan_brings_its_pack_which_can_be_replaced(inputs: tuple[Path, Path], planned: Path, tmp_path: Path) -> None:
    model, data = inputs
    plan = {**read(planned), "pack": "entropy"}
    packed = pipeline.compress(model, plan=plan, data=data, out=tmp_path / "packed")
    plain = pipeline.compress(model, plan=plan, data=data, out=tmp_path / "plain", pack="plain")
    assert packed.verdict.packing is not None and plain.verdict.packing is None
    assert weights(tmp_path / "plain") and not (tmp_path / "packed" / "trimodal.safetensors").exists()


def test_a_plan_for_another_model(refused: Refused, inputs: tuple[Path, Path], planned: Path, tmp_path: Path) -> None:
    model, data = inputs
    other = tmp_path.parent / f"{tmp_path.name}-other"
    shutil.copytree(model, other)
    tensors = load_file(other / "model.safetensors")
    tensors[min(tensors)] += 1.0
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    done = process("compress", other, "--plan", planned, "--data", data, "-o", tmp_path / "out")
    assert done.code == 2 and not list(tmp_path.iterdir())
    assert done.err.startswith("error: plan.json was made for another model (clip, fingerprint ") and "make a new plan" in done.err
    refused(["compress", other, "--recipe", "int8", "--inventory", planned.with_name("inventory.json"), "--data", "none", "-o", "out"],
            "inventory.json is of another model", "trimodal inspect")  # fmt: skip


def test_a_plan_for_other_data(refused: Refused, workspace: Workspace, inputs: tuple[Path, Path], planned: Path) -> None:
    model, _ = inputs
    compress = ["compress", model, "--plan", planned, "-o", "out", "--data"]
    refused([*compress, workspace.data("image", "text", n=24)], "the plan was made for calibration samples with sha256", "make a new plan")
    refused([*compress, "none"], "the plan was made for calibration samples with sha256", "but there is none", "make a new plan")
    refused([*compress, inputs[1], "--seed", "4"], "plan.json has the seed 3", "make a new plan with seed 4")
    blind = {**read(planned), "calibration": {"samples": 0, "sha256": None}}
    with pytest.raises(RecipeError, match="the plan was made without data, and here is some; give --data none, or make a new plan"):
        pipeline.compress(model, plan=blind, data=inputs[1], out=planned.parent / "out")


def test_what_a_person_gets_wrong(refused: Refused, inputs: tuple[Path, Path], planned: Path, tmp_path: Path) -> None:
    model, data = inputs
    compress = ["compress", model, "--data", data, "-o", "out"]
    refused([*compress, "--plan", planned, "--recipe", "int8"], "exactly one of --recipe and --plan")
    refused(compress, "exactly one of --recipe and --plan")
    plan, mine = read(planned), tmp_path.with_name(f"{tmp_path.name}.json")
    for change, words in (
        ({"name": "text.0.upp"}, ("edits[2].places[0]", "no place 'text.0.upp'", "did you mean 'text.0.up'?")),
        ({"name": "text.0.attention.norm"}, ("edits[2].places[0]", "cannot work at text.0.attention.norm", "norm")),
        ({"name": "text.0.up", "config": {"bits": 1}}, ("edits[2].places[0].config", "bits is 1, but must be")),
        ({"name": "text.0.up", "pathes": []}, ("edits[2].places[0]", "unknown key 'pathes'; did you mean 'paths'?")),
    ):
        mine.write_text(json.dumps({**plan, "edits": [*plan["edits"][:2], {**plan["edits"][2], "places": [change]}]}))
        refused([*compress, "--plan", mine], mine.name, *words)


def test_the_guides_example(inputs: tuple[Path, Path], planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = inputs
    section = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8").partition("## Edit a plan by hand")[2]
    shutil.copyfile(planned, tmp_path / "plan.json")
    monkeypatch.chdir(tmp_path)
    exec(section.partition("```python\n")[2].partition("```")[0], {})
    edited = pipeline.plan(model, read_plan_file("plan.json")[0], data)
    before, after = read(planned)["edits"][-1]["places"], edited.edits[-1].places
    assert [place.name for place in after] == [place["name"] for place in before if place is not before[1]]
    assert after[0].config["bits"] == 8 and after[0].bytes_after > before[0]["bytes_after"] and edited.recomputed


def test_from_python(inputs: tuple[Path, Path], planned: Path) -> None:
    model, data = inputs
    with pytest.raises(OutputError, match="no folder to write"):
        pipeline.compress(model, plan=planned, data=data)
    with pytest.raises(RecipeError, match="exactly one"):
        pipeline.compress(model, "int8", data, planned.parent / "out", plan=planned)
    checked = pipeline.plan(model, pipeline.read_plan(planned.parent), data)
    assert json.loads(json.dumps(checked.to_json())) == read(planned) and checked.estimate is not None

"""The verb on a miniature: what is timed, compared and remembered. No time is checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import trimodal
from trimodal.benching import bench as benching
from trimodal.benching.bench import Bench, Row, bench, order_sources
from trimodal.benching.choice import bench_and_choose, choose_variant, find_loss, open_fastest, read_choice
from trimodal.benching.conditions import read_conditions
from trimodal.benching.probe import Facts
from trimodal.benching.table import make_bench_table, show_cosines
from trimodal.benching.timing import Timing
from trimodal.benching.variants import list_runtimes, read_source
from trimodal.errors import InputError
from trimodal.networks.tiny import write_miniature, write_miniature_data
from trimodal.runtimes.example_inputs import make_inputs
from trimodal.runtimes.model_limits import count_words


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT miniature with weights and inputs at 8 bits, and the model that it came from beside it, as `original`."""
    place = tmp_path_factory.mktemp("bench")
    original = write_miniature("bert", place / "original")
    data = write_miniature_data(place / "data", 16, ["text"])
    trimodal.compress(original, "int8-full", data=data, out=place / "int8")
    trimodal.export(place / "int8", "onnx")
    return place / "int8"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fresh processes."""
    monkeypatch.setattr(benching, "probe_component", lambda *given: Facts(0.0, 0, 0))


def test_artifact_beside_its_original(artifact: Path, quick: None) -> None:
    found = bench(artifact, artifact.parent / "original", tokens=(4, 8), threads=1, rounds=1)
    assert found.reference == "original, onnxruntime"  # the model as it was published comes first
    assert [row.variant for row in found.rows[:4]] == [
        "original, onnxruntime", "original, openvino", "int8, onnxruntime", "int8, openvino"]  # fmt: skip
    assert [(row.batch, row.tokens) for row in found.rows] == [(1, 4)] * 4 + [(1, 8)] * 4
    assert list(found.noise) == ["model, batch 1, 4 tokens", "model, batch 1, 8 tokens"]
    for row in found.rows:
        assert set(row.cosines) == {"last_hidden_state", "pooler_output"}
        lowest = min(cosine for cosine in row.cosines.values() if cosine is not None)
        assert lowest > (0.999999 if row.variant.startswith("original") else 0.98), row.variant
    floats, coded = found.rows[0].disk_bytes, found.rows[2].disk_bytes
    assert 0 < coded < floats
    assert json.loads(json.dumps(found.to_json()))["rows"][0]["variant"] == found.reference
    assert make_bench_table(found).renderables


def test_a_fresh_process_tells_memory_and_integer_nodes(artifact: Path) -> None:
    found = bench(artifact / "onnx", runtime="onnxruntime", tokens=(4,), threads=1, rounds=1)
    (row,) = found.rows
    assert row.facts is not None and row.facts.integer_nodes is not None and row.facts.integer_nodes > 0
    assert row.facts.load_seconds > 0
    assert 20e6 < row.facts.peak_bytes < 300e6  # the runtime, and no torch beside it


def test_auto_remembers_the_fastest(artifact: Path, quick: None) -> None:
    found, choice = bench_and_choose(artifact, tokens=(4,), threads=1, rounds=1)
    assert [row.variant for row in found.rows] == ["int8, torch", "int8, onnxruntime", "int8, openvino"]
    assert choice.variant in choice.milliseconds and not choice.unfaithful
    assert read_choice(artifact) == choice
    assert read_choice(artifact, threads=2) is None  # nobody measured that
    sessions = open_fastest(artifact)
    source = read_source(artifact)
    shapes = json.loads((source.exports["onnx"] / "export.json").read_text())["components"][0]["inputs"]
    given = make_inputs(shapes, 2, 4, count_words(artifact))
    assert sessions["model"].run(given)["last_hidden_state"].shape[:2] == (2, 4)
    trimodal.load(artifact)  # which does not mind the file
    (artifact / "runtime.json").write_text("{}")
    with pytest.raises(InputError, match=r"runtime\.json is not what trimodal writes there"):
        read_choice(artifact)
    (artifact / "runtime.json").unlink()
    assert read_choice(artifact) is None


def make_row(variant: str, seconds: float, cosine: float) -> Row:
    timing = Timing(seconds, seconds, seconds, (seconds,), False)
    return Row(variant, variant.partition(", ")[2], "model", 1, 4, timing, None, {"output": cosine}, "onnx/model.onnx", 1)


def test_the_fastest_of_the_faithful_is_chosen(artifact: Path) -> None:
    rows = (
        make_row("original, torch", 3.0, 1.0), make_row("int8, torch", 4.0, 0.998), make_row("int8, onnxruntime", 1.0, 0.9955),
        make_row("int8, openvino", 2.0, 0.9965),
    )  # fmt: skip
    made = Bench(read_conditions(1), "original, torch", tuple(replace(row, file=str(artifact / row.file)) for row in rows), {})
    choice = choose_variant(made, artifact)
    assert (choice.variant, choice.runtime, choice.files) == ("int8, openvino", "openvino", {"model": "onnx/model.onnx"})
    assert list(choice.unfaithful) == ["int8, onnxruntime"]
    assert choice.unfaithful["int8, onnxruntime"] == (
        "output has a cosine of 0.99550, the simulation 0.99800; 0.002 less is allowed")  # fmt: skip
    assert find_loss(rows[1:2], rows[1:2], 0.0) == ""
    assert "int8, openvino" in choice.describe()
    assert show_cosines({"a": 0.5, "b": 0.25, "c": None}) == "0.25000 (b)"
    assert show_cosines({"a": None}) == "other shapes"


def test_what_cannot_be_timed_is_said(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no runtime 'onnx'; did you mean 'onnxruntime'"):
        bench(artifact, runtime="onnx")
    with pytest.raises(InputError, match="batch is 0; give numbers from 1"):
        bench(artifact, batch=[0])
    with pytest.raises(InputError, match=r"is no model, no artifact and no exported folder"):
        bench(tmp_path)
    with pytest.raises(InputError, match=r"holds onnx files, which torch cannot open"):
        bench(artifact / "onnx", runtime="torch")
    with pytest.raises(InputError, match=r"is no artifact of trimodal; the fastest runtime is remembered in one"):
        bench_and_choose(artifact.parent / "original")


def test_runtimes() -> None:
    assert list_runtimes(None) == ("onnxruntime", "openvino")
    assert list_runtimes("torch, openvino") == ("torch", "openvino")
    assert list_runtimes("auto") == ("torch", "onnxruntime", "openvino")


def test_sources_of_one_name_are_called_by_their_paths(artifact: Path, tmp_path: Path) -> None:
    twin = write_miniature("bert", tmp_path / "int8")
    found = order_sources([read_source(artifact), read_source(twin)])
    assert [source.name for source in found] == [str(twin), str(artifact)]

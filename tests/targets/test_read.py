"""Targets in files of one's own, and what is said of mistakes in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimodal.errors import TargetError
from trimodal.targets import read_target
from trimodal.targets import target as target_module


def _write(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text)
    return file


def test_a_file_says_what_is_different(tmp_path: Path) -> None:
    file = _write(tmp_path, "like: onnxruntime-avx2\nabout: our box\nparts:\n  outliers: {level: refused, why: no ScatterND}\n")
    mine, theirs = read_target(file), read_target("onnxruntime-avx2")
    assert (mine.name, mine.about, mine.parts.outliers.level) == ("mine", "our box", "refused")
    assert mine.weights == theirs.weights and mine.parts.rotated_columns == theirs.parts.rotated_columns
    assert read_target(str(file)) == mine


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("like: litert\nparst: {}\n", r"mine\.yaml: there is an unknown key 'parst'.*did you mean 'parts'\?"),
        ("like: litert\nparts: {outlier: {level: native, why: x}}\n", r"unknown key 'outlier' in parts.*did you mean 'outliers'\?"),
        ("like: litert\nparts: {outliers: {level: maybe, why: x}}\n", r"parts\.outliers\.level is 'maybe', but must be one of"),
        ("like: litert\ninstructions: [avx3]\n", r"instructions has 'avx3', expected of avx2"),
        ("like: litert\nweights: {linear: [{types: [x8], grids: [nf], groups: [any], inputs: [none], level: native, why: y}]}\n", "'x8'"),
        ("like: litert\nweights: {linear: [{types: [s8], grids: [nf5], groups: [any], inputs: [none], level: native, why: y}]}\n", "'nf5'"),
        ("like: litert\nweights: {norm: []}\n", "weights"),
        ("like: nothing\n", r"there is no target 'nothing'"),
        ("like: 3\n", "like is 3, but must name another target"),
        ("name: x\n", "there is no key"),
        ("[1, 2]\n", "must be a mapping"),
        ("a: [\n", "is not valid YAML"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        read_target(_write(tmp_path, text))


def test_a_file_that_is_like_itself(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"like: {file}\n")
    with pytest.raises(TargetError, match="must name another target"):
        read_target(file)


def test_a_runtime_stands_for_its_target_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for have, name in ((["avx2"], "onnxruntime-avx2"), (["avx2", "avx_vnni"], "onnxruntime-vnni"), ([], "onnxruntime-avx2")):
        monkeypatch.setattr(target_module, "instruction_sets", lambda have=have: have)
        assert read_target("onnxruntime").name == name
    assert read_target("executorch").name == "executorch-xnnpack"


def test_names_that_there_are_not(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="did you mean 'onnxruntime-avx2'"):
        read_target("onnxruntime-avx")
    with pytest.raises(TargetError, match="cannot be read"):
        read_target(tmp_path / "none.yaml")

"""What was changed in an artifact is noticed: what decides the result when it is loaded, what only tells when it is verified.

`python -m benchmarks.kills` does the same at random.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import trimodal
from trimodal import pipeline
from trimodal.errors import IntegrityError, TrimodalError
from trimodal.formats import artifact as artifact_file
from trimodal.formats.artifact import find_changed_side_files
from trimodal.networks.tiny import write_miniature, write_miniature_data
from trimodal.reporting import report

STEPS: dict[str, list[dict[str, Any]]] = {
    "packed": [{"quantize.rtn": {"where": "*", "bits": 4, "group": 16}}],
    "only cut": [{"prune.neurons": {"where": "*", "sparsity": 0.5, "score": "magnitude"}}],
}
STEPS["entropy-coded"] = STEPS["packed"]
TELLERS = ("plan.json", "record.jsonl", "verdict.json", "report.html", "checks.sha256")
ADDED = (
    "generation_config.json", "model.safetensors.index.json", "pytorch_model.bin", "modeling_bert.py", "adapter_config.json",
    "model-00002-of-00002.safetensors",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, and three artifacts."""
    root = tmp_path_factory.mktemp("damage")
    model = str(write_miniature("bert", root / "model"))
    write_miniature_data(root / "data", 8, ["text"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
        for name, steps in STEPS.items():
            pack = "entropy" if name == "entropy-coded" else "plain"
            pipeline.compress(model, {"steps": steps}, None, root / name, pack=pack)  # type: ignore[arg-type]
    return root


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The packed artifact, to be changed."""
    return Path(shutil.copytree(whole / "packed", tmp_path / "copy"))


def noticed(folder: Path, decides: bool) -> bool:
    try:
        if not decides:
            return bool(find_changed_side_files(folder))
        trimodal.load(folder)
    except TrimodalError:
        return True
    return False


@pytest.mark.parametrize("name", STEPS)
def test_every_file(whole: Path, name: str, tmp_path: Path) -> None:
    """A bit flipped, a file cut short, a file removed, a file added."""
    missed = []
    folder = Path(shutil.copytree(whole / name, tmp_path / "copy"))
    assert not noticed(folder, True) and not noticed(folder, False)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        data, decides = file.read_bytes(), file.name not in TELLERS
        for place in (0, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
            missed += [] if noticed(folder, decides) else [f"{file.name}: bit {place}"]
        file.write_bytes(data[: len(data) // 2])
        missed += [] if noticed(folder, decides) else [f"{file.name}: cut short"]
        file.unlink()
        missed += [] if noticed(folder, decides) else [f"{file.name}: removed"]
        file.write_bytes(data)
    for added in ADDED:
        (folder / added).write_bytes(b"{}")
        missed += [] if noticed(folder, True) else [f"{added}: added"]
        (folder / added).unlink()
    assert missed == [] and not noticed(folder, True) and not noticed(folder, False)


def test_what_a_run_leaves_beside_is_no_part_of_it(copy: Path) -> None:
    (copy / f".trimodal.{'0' * 16}.part").touch()
    trimodal.load(copy)


def test_verify_does_not_make_a_change_count_as_unchanged(whole: Path, copy: Path) -> None:
    (copy / "record.jsonl").write_text((copy / "record.jsonl").read_text().replace("e", "E"))
    for _ in range(2):
        verdict = pipeline.verify(copy, str(whole / "model"), whole / "data")
        (failed,) = [check for check in verdict.checks if check.failed]
        assert "record.jsonl has changed" in failed.detail


def test_a_page_that_is_written_again_is_no_change(copy: Path) -> None:
    (copy / "report.html").write_text("another")
    assert find_changed_side_files(copy) == ["report.html has changed"]
    report(copy)
    assert find_changed_side_files(copy) == []


def test_artifact_that_is_replaced_while_it_is_verified(whole: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = pipeline.make_verdict

    def meanwhile(*rest: Any, **more: Any) -> Any:
        shutil.rmtree(copy)
        shutil.copytree(whole / "only cut", copy)
        return compare(*rest, **more)

    monkeypatch.setattr(pipeline, "make_verdict", meanwhile)
    with pytest.raises(IntegrityError, match="was replaced while it was measured"):
        pipeline.verify(copy, str(whole / "model"), whole / "data")
    assert find_changed_side_files(copy) == []


def test_artifact_that_is_replaced_while_it_is_loaded(whole: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = artifact_file._open_plain

    def meanwhile(*rest: Any) -> Any:
        model = opened(*rest)
        shutil.copy(whole / "only cut" / "trimodal.json", copy)
        return model

    monkeypatch.setattr(artifact_file, "_open_plain", meanwhile)
    with pytest.raises(IntegrityError, match="was replaced while it was read"):
        trimodal.load(copy)


def test_artifact_that_is_replaced_while_it_is_packed(
    whole: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = pipeline.copy_artifact

    def meanwhile(source: Path, folder: Path) -> None:
        shutil.copy(whole / "only cut" / "config.json", copy)
        copied(source, folder)

    monkeypatch.setattr(pipeline, "copy_artifact", meanwhile)
    with pytest.raises(IntegrityError, match=r"config\.json has changed"):
        pipeline.pack(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()

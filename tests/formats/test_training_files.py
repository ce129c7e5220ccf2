"""What an artifact carries over of how its original was trained."""

from __future__ import annotations

import json
from pathlib import Path

from trimodal.formats.training_files import LINES_KEPT, carry_training_files


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir(), out.mkdir()
    carry_training_files(source, out)
    assert not list(out.iterdir())
    lines = [{"step": step, "loss": 1.0} for step in range(1, 10 * LINES_KEPT + 1)]
    lines[4321] = {"step": 4321, "eval_loss": 0.5}
    (source / "training.json").write_text('{"seed": 3}')
    (source / "curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 20')
    carry_training_files(source, out)
    kept = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    assert len(kept) == LINES_KEPT + 2
    assert (kept[0], kept[-1]) == (lines[0], lines[-1])
    assert lines[4321] in kept
    assert (out / "training.json").read_text() == '{"seed": 3}'
    (source / "curves.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    carry_training_files(source, out)
    assert (out / "curves.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'

"""What we make of a model: compressed in memory, and exported. Kept in `.cache/speed`, so that a second run only measures.

    python -m benchmarks.speed.ours MODEL KIND      KIND: float, int8, weights, structure or tokens
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import planned_and_compressed
from benchmarks.speed.models import CASES, INT8_WEIGHTS, Case, make_samples, open_case

CACHE = Path(__file__).parents[2] / ".cache" / "speed"
FLOAT, INT8, WEIGHTS, STRUCTURE, TOKENS = "float", "int8", "weights", "structure", "tokens"


def list_kinds(case: Case) -> list[str]:
    """What we make of it: the float graph, which peers begin with too, int8, and what else fits."""
    return [FLOAT, INT8, *([WEIGHTS] if case.real else []), *([STRUCTURE] if case.structure else []), *([TOKENS] if case.tokens else [])]


def steps_of(case: Case, kind: str) -> Sequence[Mapping[str, Any]]:
    """The recipe's steps."""
    before = {STRUCTURE: case.structure, TOKENS: case.tokens}.get(kind, ())
    return {FLOAT: [], WEIGHTS: INT8_WEIGHTS}.get(kind, [*before, *case.steps])


def folder_of(case: Case, kind: str) -> Path:
    """Where it is kept."""
    return CACHE / "".join(letter if letter.isalnum() else "-" for letter in case.name.lower()) / kind


def make_ours(case: Case, kind: str) -> dict[str, Path]:
    """The exported ONNX files by component; made if they are not there, or were made with other steps."""
    import torch

    from trimodal.exporting import EXPORTERS
    from trimodal.exporting.export import prepare_source

    folder, steps = folder_of(case, kind), steps_of(case, kind)
    said = folder / "files.json"
    wanted = json.dumps([list(steps), case.calibration])
    if not said.is_file() or json.loads(said.read_text())["steps"] != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = open_case(case)
        if steps:
            model, *_ = planned_and_compressed(model, steps, make_samples(model, case.calibration))
        with torch.no_grad():
            result = EXPORTERS["onnx"].write(prepare_source(model, {}), folder)
        files = {part.name: part.files[0] for part in result.components}
        said.write_text(json.dumps({"steps": wanted, "files": files, "coded": len(result.coded), "float_inputs": len(result.float_inputs)}))
    return {name: folder / file for name, file in json.loads(said.read_text())["files"].items()}


if __name__ == "__main__":
    print(make_ours(CASES[sys.argv[1]], sys.argv[2]))

"""What we make of a model: compressed in memory, and exported. Kept in `.cache/speed`, so that a second run only measures.

    python -m benchmarks.speed.ours MODEL KIND      KIND: float, int8, weights, structure, tokens, or "structure and tokens"
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.memory import planned_and_compressed
from benchmarks.speed.models import CASES, INT8_WEIGHTS, Case, make_samples, open_case

CACHE = Path(__file__).parents[2] / ".cache" / "speed"
FLOAT, INT8, WEIGHTS, STRUCTURE, TOKENS, BOTH = "float", "int8", "weights", "structure", "tokens", "structure and tokens"
SMALLER = (STRUCTURE, TOKENS, BOTH)
FORMATS = ("onnx", "openvino")
_RANGED = 4  # samples that attention's ranges are taken from

Files = Mapping[str, Mapping[str, str]]
"""By format and component: the file that is opened."""


def list_kinds(case: Case) -> list[str]:
    """What we make of it: int8, and what else fits."""
    smaller = [kind for kind, fits in zip(SMALLER, (case.structure, case.tokens, case.structure and case.tokens)) if fits]
    return [INT8, *([WEIGHTS] if case.real else []), *smaller]


def steps_of(case: Case, kind: str) -> Sequence[Mapping[str, Any]]:
    """The recipe's steps."""
    before = {STRUCTURE: case.structure, TOKENS: case.tokens, BOTH: [*case.structure, *case.tokens]}.get(kind, ())
    return {FLOAT: [], WEIGHTS: INT8_WEIGHTS}.get(kind, [*before, *case.steps])


def folder_of(case: Case, kind: str) -> Path:
    """Where it is kept."""
    return CACHE / "".join(letter if letter.isalnum() else "-" for letter in case.name.lower()) / kind.replace(" ", "-")


def make_ours(case: Case, kind: str) -> Files:
    """The exported files; made if they are not there, or were made with other steps."""
    folder, steps = folder_of(case, kind), steps_of(case, kind)
    said = folder / "files.json"
    wanted = json.dumps([list(steps), case.calibration])
    if not said.is_file() or json.loads(said.read_text())["steps"] != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        said.write_text(json.dumps({"steps": wanted, **write_ours(case, steps, folder)}))
    files: Files = json.loads(said.read_text())["files"]
    return {form: {name: str(folder / form / file) for name, file in parts.items()} for form, parts in files.items()}


def write_ours(case: Case, steps: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Compress, and write one folder per format; floats as ONNX alone, which both runtimes read."""
    import torch

    from trimodal.exporting import EXPORTERS
    from trimodal.exporting.export import choose_target, prepare_source
    from trimodal.exporting.samples import measure_output_ranges

    model = open_case(case)
    if steps:
        model, *_ = planned_and_compressed(model, steps, make_samples(model, case.calibration))
    ranges = measure_output_ranges(model, [case.inputs(_RANGED, 0)])
    source = replace(prepare_source(model), output_ranges=ranges)
    said: dict[str, Any] = {"files": {}, "coded": 0, "float_inputs": 0}
    for form in FORMATS if steps else FORMATS[:1]:
        (folder / form).mkdir()
        with torch.no_grad():
            result = EXPORTERS[form].write(replace(source, target=choose_target(EXPORTERS[form], None)), folder / form)
        said["files"][form] = {part.name: part.files[0] for part in result.components}
        said |= {"coded": len(result.coded), "float_inputs": len(result.float_inputs)}
    return said


if __name__ == "__main__":
    print(make_ours(CASES[sys.argv[1]], sys.argv[2]))

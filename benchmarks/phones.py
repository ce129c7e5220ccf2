"""Phones' formats, run here in their own runtimes: python -m benchmarks.phones ARTIFACT [ARTIFACT …]

Each artifact is exported to LiteRT and to ExecuTorch; its own model, as it was published, is exported beside it for the ratio of speeds.
The export itself refuses codes that are not in the file bit for bit; here it is counted how many layers have theirs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch

import trimodal
from benchmarks.passlines import PassLine, finish
from trimodal.exporting.component import Component
from trimodal.exporting.export import Export
from trimodal.exporting.trial import begin_trial
from trimodal.formats import open_model
from trimodal.models.tensors import unique_tensors
from trimodal.runtimes import RUNTIMES

FORMATS = ("litert", "executorch")
_TIMES = 5


def measure_format(artifact: str, original: str | None, name: str, folder: Path) -> list[PassLine]:
    """The lines of one artifact in one format."""
    model = open_model(artifact)
    size = sum(tensor.nbytes for tensor in unique_tensors(model.module).values())
    trial = begin_trial(model)
    made = trimodal.export(artifact, name, folder / "int8")
    files = {part.name: made.folder / part.files[0] for part in made.result.components}
    said = f"{name} {Path(artifact).name}"
    codes = len(made.result.coded) / (len(made.result.coded) + len(made.result.decoded))
    lines = [PassLine(f"{said}: codes bit for bit (decoded: {', '.join(made.result.decoded) or 'none'})", codes, least=1.0)]
    lines.append(PassLine(f"{said}: bytes / bytes as planned", sum(file.stat().st_size for file in files.values()) / size, most=1.05))
    for part in trial.components:
        given = {key: value.numpy() for key, value in trial.inputs[part.name].items()}
        session = RUNTIMES[name](files[part.name], 1)
        found = session.run(given)
        session.close()
        lines += [
            PassLine(f"{said}: cosine of {key} to the simulation", _cosine(found[key], wanted), least=0.99)
            for key, wanted in trial.outputs[part.name].items()
        ]  # fmt: skip
    if original is not None:
        float_made = trimodal.export(original, name, folder / "float")
        ratio = sum(_measure(made, name, trial.components)) / sum(_measure(float_made, name, trial.components))
        lines.append(PassLine(f"{said}: CPU seconds / those of its own float file", ratio, most=1.0))
    return lines


def _cosine(found: np.ndarray, wanted: torch.Tensor) -> float:
    return float(torch.cosine_similarity(torch.tensor(found).flatten().double(), wanted.flatten().double(), dim=0))


def _measure(made: Export, name: str, components: list[Component] | tuple[Component, ...]) -> list[float]:
    """Median CPU seconds of each component at the shapes of its file, one thread."""
    found = []
    for part in made.result.components:
        (component,) = [one for one in components if one.name == part.name]
        feed = {}
        for key, shape in part.inputs.items():
            kind = component.inputs[key].numpy().dtype
            feed[key] = np.ones([int(n) for n in shape], kind)
        session = RUNTIMES[name](made.folder / part.files[0], 1)
        session.measure_seconds(feed, 2)  # type: ignore[attr-defined]
        found.append(median(session.measure_seconds(feed, _TIMES)))  # type: ignore[attr-defined]
        session.close()
    return found


def main() -> None:
    """Every artifact named, as ARTIFACT or ARTIFACT=ORIGINAL for the ratio of speeds."""
    lines = []
    for given in sys.argv[1:]:
        artifact, _, original = given.partition("=")
        for name in FORMATS:
            with tempfile.TemporaryDirectory() as folder:
                lines += measure_format(artifact, original or None, name, Path(folder))
    finish(lines)


if __name__ == "__main__":
    main()

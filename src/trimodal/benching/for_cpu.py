"""From an artifact to what runs it fastest here: exported to every runtime that is installed, timed, and the fastest that is faithful
remembered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimodal.benching.bench import Bench, Tell
from trimodal.benching.choice import Choice, bench_and_choose
from trimodal.data import Data
from trimodal.errors import InputError
from trimodal.exporting import EXPORTERS
from trimodal.exporting.export import export
from trimodal.formats import is_artifact
from trimodal.loading.load import locate_source

FORMATS = ("onnx", "openvino")


def check_preparable(model: Any) -> tuple[str, ...]:
    """The formats that what is made of `model`, which a user named, can be exported to here: asked before hours of compressing.

    Raises:
        InputError: no runtime is installed, or the model comes from a function, whose artifact only that function opens.
    """
    there = tuple(name for name in FORMATS if not EXPORTERS[name].missing_packages)
    if not there:
        raise InputError("no runtime for a CPU is installed; run pip install 'trimodal[openvino]', which brings OpenVINO and ONNX Runtime")
    if not isinstance(locate_source(model), Path):
        raise InputError(
            f"{model} is a function: compress what it returns without this, then run trimodal export OUT --to {there[0]} --factory "
            f"{model} and trimodal bench OUT/{there[0]}"
        )
    return there


def prepare_for_cpu(
    out: str | Path, data: Data | None = None, against: str | Path | None = None, *, tell: Tell | None = None, rounds: int = 7,
    batch: Sequence[int] = (1,),
) -> tuple[Bench, Choice]:  # fmt: skip
    """Export the artifact `out` to every CPU runtime that is installed here, into OUT/onnx and OUT/openvino, time them beside
    PyTorch, and remember the fastest that is faithful; `trimodal.open_fastest(out)` opens it.

    Args:
        out: the artifact. What was exported from it before is replaced.
        data: samples that the exports are tried on; OpenVINO takes ranges from them.
        against: the original, which times and fidelity are then relative to.
        tell: is told what goes on.
        rounds: how often each variant is timed.
        batch: samples at once, one or more sizes.

    Raises:
        InputError: `out` is no artifact, or no runtime is installed.
        IntegrityError: what was exported is not what was compressed.
    """
    folder = Path(out)
    if not is_artifact(folder):
        raise InputError(f"{folder} is no artifact of trimodal; compress a model first")
    for name in check_preparable(str(folder)):
        if tell is not None:
            tell(f"exporting to {name}")
        export(folder, name, data=data, force=True)
    return bench_and_choose(folder, *([] if against is None else [against]), tell=tell, rounds=rounds, batch=batch)

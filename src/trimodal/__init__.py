"""trimodal: compress multimodal models (image, text, audio) as a whole, and prove what the result is.

The verbs below are functions with typed results; the command line has the same ones. Torch is imported when the first
of them is used.
"""

from __future__ import annotations

import random
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimodal.errors import (
    DataError,
    InputError,
    IntegrityError,
    ModelError,
    OutputError,
    RecipeError,
    TargetError,
    TrimodalError,
)
from trimodal.stock import register_with_transformers

if TYPE_CHECKING:
    from trimodal.benching.bench import bench
    from trimodal.benching.choice import open_fastest
    from trimodal.benching.for_cpu import prepare_for_cpu
    from trimodal.data import open_data
    from trimodal.exporting.archive import unpack
    from trimodal.exporting.export import export
    from trimodal.formats import load
    from trimodal.pipeline import Result, compress, inspect, list_methods, pack, plan, report, verify
    from trimodal.pipeline_runs.run import run_pipeline
    from trimodal.registration import register
    from trimodal.runtimes.exported_model import open_export
    from trimodal.training_runs.run import train

__version__ = "0.1.0"

__all__ = [
    "DataError", "InputError", "IntegrityError", "ModelError", "OutputError", "RecipeError", "Result", "TargetError", "TrimodalError",
    "bench", "compress", "export", "inspect", "list_methods", "load", "open_data", "open_export", "open_fastest", "pack", "plan",
    "prepare_for_cpu", "register", "report", "run_pipeline", "train", "unpack", "verify",
]  # fmt: skip

_HOME = {
    "load": "trimodal.formats", "export": "trimodal.exporting.export", "open_export": "trimodal.runtimes.exported_model",
    "unpack": "trimodal.exporting.archive", "bench": "trimodal.benching.bench", "open_fastest": "trimodal.benching.choice",
    "prepare_for_cpu": "trimodal.benching.for_cpu", "open_data": "trimodal.data", "register": "trimodal.registration",
    "run_pipeline": "trimodal.pipeline_runs.run", "train": "trimodal.training_runs.run",
}  # fmt: skip
_LAZY = frozenset({
    "Result", "bench", "compress", "export", "inspect", "list_methods", "load", "open_data", "open_export", "open_fastest", "pack",
    "plan", "prepare_for_cpu", "register", "report", "run_pipeline", "train", "unpack", "verify",
})  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a verb when it is first asked for. What is imported with it draws random numbers and adds filters for warnings;
    the user's process is not to notice."""
    if name not in _LAZY:
        raise AttributeError(f"module 'trimodal' has no attribute '{name}'")
    chance = random.getstate()
    try:
        with warnings.catch_warnings():
            return getattr(import_module(_HOME.get(name, "trimodal.pipeline")), name)
    finally:
        random.setstate(chance)


def __dir__() -> list[str]:
    return sorted(__all__)


register_with_transformers()

"""The public names, listed by hand; and that asking for them costs nothing until one is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trimodal

NAMES = {
    "DataError", "InputError", "IntegrityError", "ModelError", "OutputError", "RecipeError", "Result", "TargetError", "TrimodalError",
    "bench", "compress", "export", "inspect", "list_methods", "load", "open_data", "open_export", "open_fastest", "pack", "plan",
    "prepare_for_cpu", "register", "report", "run_pipeline", "train", "unpack", "verify",
}  # fmt: skip


def test_names() -> None:
    assert set(trimodal.__all__) == NAMES == set(dir(trimodal))
    for name in NAMES:
        assert callable(getattr(trimodal, name)), name


def test_methods_are_listed() -> None:
    from trimodal.methods import METHODS, get_method

    assert trimodal.list_methods() == METHODS
    assert trimodal.list_methods("quantize.rtn") == (get_method("quantize.rtn"),)
    with pytest.raises(trimodal.RecipeError, match=r"did you mean 'quantize.rtn'"):
        trimodal.list_methods("quantize.rtm")


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'trimodal' has no attribute 'compres'"):
        trimodal.compres  # noqa: B018


def test_import_is_light() -> None:
    code = "import trimodal, sys; dir(trimodal); trimodal.ModelError; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_are_one_tree() -> None:
    for error in ("DataError", "ModelError", "OutputError", "RecipeError", "TargetError"):
        kind = getattr(trimodal, error)
        assert issubclass(kind, trimodal.InputError) and kind.exit_code == 2
    assert issubclass(trimodal.IntegrityError, trimodal.TrimodalError) and trimodal.IntegrityError.exit_code == 1

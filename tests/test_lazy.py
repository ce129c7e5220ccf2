"""Modules that are imported at their first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trimodal.lazy import lazy_module


def test_nothing_is_imported_before_it_is_used() -> None:
    code = (
        "import sys; from trimodal.lazy import lazy_module; lazy = lazy_module('wave');"
        "print('wave' in sys.modules); print(lazy.open.__name__, 'wave' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "open", "True"]


def test_it_is_the_module_itself_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import wave

    lazy = lazy_module("wave")
    assert lazy.open is wave.open
    monkeypatch.setattr(wave, "open", len)
    assert lazy.open is len
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = lazy.nothing_like_it


def test_a_module_that_is_not_there_is_an_error_when_it_is_used() -> None:
    lazy = lazy_module("trimodal.nowhere")
    with pytest.raises(ModuleNotFoundError, match=r"trimodal\.nowhere"):
        _ = lazy.anything

"""Bars of other libraries: off while we load, afterwards as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as reports

from trimodal import pipeline
from trimodal.models.quiet import hide_progress_bars
from trimodal.networks.tiny import write_miniature


@pytest.fixture
def bars() -> Iterator[None]:
    """Bars on, and afterwards as the tests had them."""
    loading, fetching, verbosity = reports.is_progress_bar_enabled(), not are_progress_bars_disabled(), reports.get_verbosity()
    reports.enable_progress_bar()
    yield
    reports.set_verbosity(verbosity)
    (reports.enable_progress_bar if loading else reports.disable_progress_bar)()
    (enable_progress_bars if fetching else disable_progress_bars)()


def state() -> tuple[bool, bool]:
    return reports.is_progress_bar_enabled(), not are_progress_bars_disabled()


@pytest.mark.parametrize(("loading", "fetching"), [(True, True), (True, False), (False, True), (False, False)])
def test_left_as_they_were(bars: None, loading: bool, fetching: bool) -> None:
    (reports.enable_progress_bar if loading else reports.disable_progress_bar)()
    (enable_progress_bars if fetching else disable_progress_bars)()
    was = state()
    with pytest.raises(ValueError, match="on purpose"), hide_progress_bars():
        assert state() == (False, False)
        raise ValueError("on purpose")
    assert state() == was == (loading, fetching)


def test_who_asked_for_them_keeps_them(bars: None) -> None:
    reports.set_verbosity_info()
    with hide_progress_bars():
        assert state() == (True, True)


def test_no_verb_draws_one(bars: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_miniature("bert", tmp_path / "model")
    capfd.readouterr()  # what writing the miniature has drawn
    pipeline.inspect(folder)
    assert capfd.readouterr().err == "" and state() == (True, True)

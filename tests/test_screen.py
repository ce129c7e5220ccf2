"""What is shown besides results, to whom, and that no terminal stops it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from trimodal.errors import ModelError, OutputError
from trimodal.screen import Screen, print_json, replace_unknown_signs


def screen(**options: bool) -> tuple[Screen, io.StringIO]:
    shown = io.StringIO()
    return Screen(console=Console(file=shown, width=80), **options), shown


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "reading it\n"), ({"quiet": True}, ""), ({"as_json": True}, "")],
)
def test_first_line(options: dict[str, bool], said: str) -> None:
    one, shown = screen(**options)
    with one.show_progress("it") as progress:
        assert shown.getvalue() == said  # before any work
        progress("work", 1, 2)
    assert shown.getvalue() == said


def test_errors_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    one, shown = screen(quiet=True)
    assert one.print_error("ModelError", "[b]there is none", 2) == 2 and shown.getvalue() == "error: [b]there is none\n"
    assert screen(as_json=True)[0].print_error("ModelError", "there is\nnone", 2) == 2
    assert json.loads(capsys.readouterr().err) == {"error": {"kind": "ModelError", "message": "there is\nnone", "exit_code": 2}}


def test_log_file(tmp_path: Path) -> None:
    one, _ = screen(quiet=True)
    one.log = tmp_path / "log.txt"
    for _ in range(2):
        with pytest.raises(ModelError), one.capture_logs(), one.show_progress("it") as progress:
            progress("quantize.rtn text.0.up", 3, 9)
            raise ModelError("it is broken")
    text = one.log.read_text()
    assert text.count("reading it") == 2 and "quantize.rtn text.0.up" in text and "Traceback" in text and "it is broken" in text
    one.log = tmp_path / "no" / "log.txt"
    with pytest.raises(OutputError, match=r"log\.txt cannot be written .*--log-file"), one.capture_logs():
        pass


def test_verbose_shows_where_an_error_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    one, _ = screen(verbose=True)
    with pytest.raises(ModelError), one.capture_logs():
        raise ModelError("it is broken")
    assert "Traceback" in capsys.readouterr().err


def test_signs_that_a_terminal_cannot_show(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    replace_unknown_signs()
    print("2.2× → ≤ −1 é \udcff")
    print_json({"name": "é"})
    sys.stdout.flush()
    assert raw.getvalue().decode().splitlines()[0] == "2.2x -> <= -1 ? ?"
    assert json.loads(raw.getvalue().decode().partition("\n")[2]) == {"name": "é"}


def test_streams_that_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    replace_unknown_signs()
    print("nobody hears")

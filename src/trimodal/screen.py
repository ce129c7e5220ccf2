"""What the command line shows besides results: a first line, progress with the time that is left, notices, a log file.

All of it goes to standard error. Where that is a terminal there is a bar; elsewhere there are plain lines, and with `quiet`
(which `--json` implies) nothing but errors.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trimodal.core.text import json_text
from trimodal.errors import OutputError, TrimodalError

_PLAIN = str.maketrans({
    "→": "->", "×": "x", "−": "-", "–": "-", "…": "...", "≤": "<=", "≥": ">=", "±": "+-", "·": "*", "’": "'", "“": '"', "”": '"',
    "Σ": "sum", "ŵ": "w", "²": "^2", "√": "sqrt", "\N{NO-BREAK SPACE}": " ",
})  # fmt: skip
_LOGGED = ("trimodal", "py.warnings")

_LOG = logging.getLogger("trimodal")
_LOG.addHandler(logging.NullHandler())


def replace_unknown_signs() -> None:
    """Let streams that cannot show a sign show a plain one: an ASCII terminal must not stop any verb."""
    codecs.register_error("trimodal.plain", _replace_sign)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="trimodal.plain")


def _replace_sign(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(sign if sign.isascii() else "?" for sign in found), error.end


def can_show(text: str, stream: TextIO) -> bool:
    """Whether `stream` can show all of `text`."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


@dataclass
class Screen:
    """How much is shown, and where it is logged. `quiet` and `verbose` are what the user asked for."""

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    log: Path | None = None
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, emoji=False))
    _said: str = ""

    @property
    def silent(self) -> bool:
        """Whether nothing but errors is shown."""
        return (self.quiet or self.as_json) and not self.verbose

    def print_notice(self, message: str) -> None:
        """A line for the user, who may have asked for silence."""
        _LOG.info(message)
        if not self.silent and not self.verbose:
            self.console.print(message, markup=False, soft_wrap=True)

    def print_error(self, kind: str, message: str, code: int) -> int:
        """An error as one line, or as JSON where that was asked for; gives back `code`."""
        if self.as_json:
            print(json.dumps({"error": {"kind": kind, "message": message, "exit_code": code}}), file=sys.stderr)
            return code
        self.console.print(f"error: {message}", markup=False, soft_wrap=True)
        return code

    @contextmanager
    def capture_logs(self) -> Iterator[None]:
        """Send warnings, what is told here, and where an error comes from, to the log file, and with `verbose` to standard error."""
        handlers = [*_make_file_handlers(self.log), *([_make_stream_handler()] if self.verbose else [])]
        known = [logging.getLogger(name) for name in _LOGGED] if handlers else []
        for logger in known:
            logger.setLevel(logging.INFO)
            logger.propagate = False
            for handler in handlers:
                logger.addHandler(handler)
        logging.captureWarnings(bool(handlers))
        try:
            yield
        finally:
            error = sys.exc_info()[1]
            if isinstance(error, TrimodalError | OSError | MemoryError):
                _LOG.error("%s", error, exc_info=error)
            logging.captureWarnings(False)
            for logger in known:
                logger.propagate = True
                for handler in handlers:
                    logger.removeHandler(handler)
            for handler in handlers:
                handler.close()

    @contextmanager
    def show_progress(self, model: str) -> Iterator[Callable[[str, int, int], None]]:
        """Say at once that `model` is being read, then show how far the work is and how long it will take."""
        self.print_notice(f"reading {model}")
        columns = (
            TextColumn("{task.description:<40.40}", markup=False), BarColumn(bar_width=20), TaskProgressColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        off = self.silent or not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=off) as bar:
            task = bar.add_task("read the model", total=None)

            def show(what: str, done: int, total: int) -> None:
                bar.update(task, description=what, completed=done, total=total or None)
                if what != self._said:
                    self._said = what
                    _LOG.info("%s (%s of %s)", what, done, total)

            yield show


class _LocalTimeFormatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """The local time with its offset, as ISO 8601 has it."""
        return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(record.created))


def _make_file_handlers(file: Path | None) -> list[logging.Handler]:
    if file is None:
        return []
    try:
        handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"the log file {file} cannot be written ({error.strerror}); give another --log-file") from error
    handler.setFormatter(_LocalTimeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return [handler]


def _make_stream_handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    return handler


def print_json(what: Any) -> None:
    """Plain data on standard output, with escapes where it cannot show a sign."""
    text = json_text(what, indent=1, ensure_ascii=False)
    sys.stdout.write((text if can_show(text, sys.stdout) else json_text(what, indent=1)) + "\n")

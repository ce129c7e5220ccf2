"""What happens, one line per event on standard error: readable, or JSON for machines that read it.

    2026-11-29T14:00:03.120Z worker_ready worker=0 pid=4711 seconds=0.41
    {"time": "2026-11-29T14:00:03.120Z", "event": "worker_ready", "worker": 0, "pid": 4711, "seconds": 0.41}
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

_STANDARD_ERROR = 2
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/@+,")
_MOST_CHARACTERS = 4000


class EventLog:
    """Writes events. A full disk or a closed terminal does not stop who writes."""

    def __init__(self, as_json: bool = False, **always: Any) -> None:
        self.as_json, self._always = as_json, always

    def say(self, event: str, **fields: Any) -> None:
        """Write one event with what belongs to it."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told = {**self._always, **{name: value for name, value in fields.items() if value is not None}}
        if self.as_json:
            line = json.dumps({"time": time, "event": event, **told}, default=str)
        else:
            line = " ".join([time, event, *(f"{name}={_quote(value)}" for name, value in told.items())])
        with suppress(OSError):
            os.write(_STANDARD_ERROR, (line + "\n").encode("utf-8", "replace"))  # one call: lines of two processes do not mix

    def take_logging(self) -> None:
        """From now on what libraries log, from warnings up, is an event as well."""
        root = logging.getLogger()
        root.handlers[:] = [_EventHandler(self)]
        root.setLevel(logging.WARNING)


class _EventHandler(logging.Handler):
    def __init__(self, log: EventLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record as an event; a traceback is one field."""
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        text = record.getMessage().strip()[:_MOST_CHARACTERS]
        self._log.say("log", level=record.levelname.lower(), logger=record.name, message=text, trace=trace and trace[-_MOST_CHARACTERS:])


def _quote(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if text and _PLAIN.issuperset(text) else json.dumps(text, ensure_ascii=False)

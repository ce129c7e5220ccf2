"""The other end of `remote.py`: a process in the environment of a runtime that keeps one file open, and answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from trimodal.runtimes import RUNTIMES
from trimodal.runtimes.remote import receive_message, send_message
from trimodal.runtimes.session import Arrays


def serve_session(arguments: Sequence[str]) -> None:
    """Open FILE in the runtime NAME with THREADS threads, and answer until standard input ends."""
    name, file, threads = arguments
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # runtimes write to standard output as they like
    try:
        session = RUNTIMES[name](Path(file), int(threads))
    except Exception as failed:  # sent to whoever asked
        send_message(answers, {"error": _describe(failed)}, {})
        return
    send_message(answers, {"inputs": list(session.input_names), "outputs": list(session.output_names)}, {})
    while (message := receive_message(sys.stdin.buffer)) is not None:
        try:
            _answer(answers, session, *message)
        except Exception as failed:  # sent to whoever asked
            send_message(answers, {"error": _describe(failed)}, {})


def _answer(answers: IO[bytes], session: Any, header: Mapping[str, Any], arrays: Arrays) -> None:
    if header["do"] == "run":
        send_message(answers, {}, session.run(arrays))
    elif header["do"] == "measure":
        send_message(answers, {"seconds": session.measure_seconds(arrays, header["times"])}, {})
    else:
        send_message(answers, {"nodes": list(session.list_integer_nodes())}, {})


def _describe(failed: BaseException) -> str:
    return f"{type(failed).__name__}: {(str(failed).strip() or 'no more is said').splitlines()[0][:300]}"

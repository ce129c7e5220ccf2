"""The process that decodes: files on standard input, pixels and waveforms on standard output, until its input ends.

    in     8 bytes length, JSON {"kind", limits}, 8 bytes length, the file
    out    8 bytes length, JSON {"shape", "type", "rate"} or {"status", "message", "field"}, 8 bytes length, the numbers

Its memory is capped, so that a file that unfolds without end ends this process and no other.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from typing import Any, BinaryIO

from trimodal.serving.media.decoding import MediaLimits, decode_media
from trimodal.serving.processes.lineage import die_with
from trimodal.serving.refusals import RefusedError

_LENGTH = struct.Struct("<Q")


def pack_message(head: dict[str, Any], body: bytes | memoryview) -> bytes:
    """A message of the two parts."""
    text = json.dumps(head).encode()
    return b"".join([_LENGTH.pack(len(text)), text, _LENGTH.pack(len(body)), body])


def _read_part(stream: BinaryIO) -> bytes:
    head = stream.read(_LENGTH.size)
    return stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""


def answer_job(head: dict[str, Any], data: bytes) -> bytes:
    """One file decoded, or why not, as a message."""
    try:
        found = decode_media(head["kind"], data, MediaLimits(**head["limits"]))
    except RefusedError as refused:
        return pack_message({"status": int(refused.status), "message": str(refused), "field": refused.field}, b"")
    except MemoryError:
        return pack_message({"status": 400, "message": f"the {head['kind']} needs too much memory", "field": head["kind"]}, b"")
    told = {"shape": found.array.shape, "type": str(found.array.dtype), "rate": found.rate}
    return pack_message(told, found.array.tobytes())


def main() -> None:
    """Decode what comes until nothing comes any more, or the process that asks is gone."""
    if sys.platform.startswith("linux"):
        die_with(os.getppid())
    if len(sys.argv) > 1:
        most = int(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while head := _read_part(source):
        sink.write(answer_job(json.loads(head), _read_part(source)))
        sink.flush()


if __name__ == "__main__":
    main()

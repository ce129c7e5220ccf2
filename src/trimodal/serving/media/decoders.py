"""A few processes that decode, one file each at a time: killed and begun anew when one takes too long or dies."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress

import numpy as np

from trimodal.serving.limits import Limits
from trimodal.serving.media.decoder_process import pack_message
from trimodal.serving.media.decoding import Decoded
from trimodal.serving.refusals import RefusedError, refuse_bad

_LENGTH = struct.Struct("<Q")
_PROGRAM = "trimodal.serving.media.decoder_process"


class Decoders:
    """`count` processes, begun when they are first needed."""

    def __init__(self, limits: Limits, count: int = 2) -> None:
        self._limits = limits
        self._free: asyncio.LifoQueue[Process | None] = asyncio.LifoQueue()
        self._running: set[Process] = set()
        for _ in range(count):
            self._free.put_nowait(None)

    async def warm_up(self) -> None:
        """Begin one process, so that the first file does not wait for it."""
        process = await self._free.get()
        self._free.put_nowait(process if _is_alive(process) else await self._begin())

    async def decode(self, kind: str, data: bytes) -> Decoded:
        """A file of the `kind` `image` or `audio`.

        Raises:
            RefusedError: it cannot be decoded within the limits.
        """
        process = await self._free.get()
        done = False
        try:
            if process is None or not _is_alive(process):
                process = await self._begin()
            found = await asyncio.wait_for(self._ask(process, kind, data), self._limits.decode_seconds)
            done = True
            return found
        except RefusedError:
            done = True
            raise
        except TimeoutError as late:
            raise refuse_bad(f"the {kind} takes longer to decode than the {self._limits.decode_seconds:g} s that are given", kind) from late
        except (asyncio.IncompleteReadError, ConnectionError, BrokenPipeError) as died:
            raise refuse_bad(f"the {kind} cannot be decoded within the memory that is given", kind) from died
        finally:
            if not done and process is not None:  # also when the client has gone: what it asked for is dropped
                await asyncio.shield(self._end(process))
            self._free.put_nowait(process if done else None)

    async def stop(self) -> None:
        """End all processes."""
        for process in list(self._running):
            await self._end(process)

    async def _begin(self) -> Process:
        command = [sys.executable, "-m", _PROGRAM, str(self._limits.decode_bytes)]
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=2**24, start_new_session=True)
        self._running.add(process)
        return process

    async def _end(self, process: Process) -> None:
        self._running.discard(process)
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _ask(self, process: Process, kind: str, data: bytes) -> Decoded:
        limits = self._limits
        caps = {"image_pixels": limits.image_pixels, "audio_seconds": limits.audio_seconds, "audio_channels": limits.audio_channels}
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(pack_message({"kind": kind, "limits": caps}, data))
        await process.stdin.drain()
        told = json.loads(await _read_part(process.stdout))
        body = await _read_part(process.stdout)
        if "status" in told:
            raise RefusedError(told["status"], told["message"], field=told["field"])
        return Decoded(np.frombuffer(body, told["type"]).reshape(told["shape"]), told["rate"])


async def _read_part(stream: asyncio.StreamReader) -> bytes:
    length = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))[0]
    return await stream.readexactly(length) if length else b""


def _is_alive(process: Process | None) -> bool:
    return process is not None and process.returncode is None

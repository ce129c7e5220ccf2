"""A file as a row of chunks, each with its own checksum, that is read once from front to back: from a pipe as from a disk.

    signature                            13 bytes, damaged by whoever takes the file for text, or by a link with seven bits
    chunk      kind                      4 letters
               bytes of the content      4 bytes, lowest first, at most 32 MiB
               content
               CRC-32 of all three       4 bytes
    ...
    chunk `ENDS`                         content: SHA-256 of every byte before this chunk; after it the file ends

The form is PNG's (ISO/IEC 15948, section 5). A zip file has its directory at its end, which a pipe can't look up; a tar file sums up
its heads and not its contents, and its reader takes heads of any length.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from typing import IO

from trimodal.errors import IntegrityError

SIGNATURE = b"\x93TRIMODAL\r\n\x1a\n"
END = b"ENDS"
LARGEST_CONTENT = 1 << 25
_HEAD = struct.Struct("<4sI")
_CRC = struct.Struct("<I")


class ChunkWriter:
    """Writes chunks into `file`; `position` counts the bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._sum, self.position = file, hashlib.sha256(), 0
        self._write(SIGNATURE)

    def write_chunk(self, kind: bytes, content: bytes) -> None:
        """Write one chunk of `kind`, 4 letters."""
        head = _HEAD.pack(kind, len(content))
        self._write(head + content + _CRC.pack(zlib.crc32(content, zlib.crc32(head))))

    def finish(self) -> None:
        """Write the last chunk, the sum of all before."""
        self.write_chunk(END, self._sum.digest())

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sum.update(data)
        self.position += len(data)


class ChunkReader:
    """Reads the chunks of `stream`, which only needs a `read`; `name` is what messages call it, `position` the bytes read so far.

    No more than one chunk is held, and no more is asked for at once than a chunk may hold.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self.name, self._sum, self.position = stream, name, hashlib.sha256(), 0

    def read_chunks(self) -> Iterator[tuple[bytes, bytes]]:
        """Kind and content of every chunk but the last.

        Raises:
            IntegrityError: the file is no archive, is damaged or cut short, or goes on after its end.
        """
        if self._read(len(SIGNATURE), "its signature") != SIGNATURE:
            raise self.fail("does not begin as an archive of trimodal does")
        while True:
            start, expected = self.position, self._sum.digest()
            head = self._read(_HEAD.size, "a chunk's head")
            kind, length = _HEAD.unpack(head)
            if length > LARGEST_CONTENT or not kind.isalpha():
                raise self.fail("has a chunk with an impossible head", start)
            content = self._read(length, "a chunk")
            (crc,) = _CRC.unpack(self._read(_CRC.size, "a chunk's checksum"))
            if zlib.crc32(content, zlib.crc32(head)) != crc:
                raise self.fail("has a chunk with another checksum than when it was written", start)
            if kind == END:
                self._check_end(content, expected, start)
                return
            yield kind, content

    def fail(self, what: str, at: int | None = None) -> IntegrityError:
        """The error for what is wrong with the file near byte `at`, or where reading stands."""
        return IntegrityError(f"{self.name} {what} (near byte {self.position if at is None else at:,}); copy or download it again")

    def _check_end(self, content: bytes, expected: bytes, start: int) -> None:
        if content != expected:
            raise self.fail("has another SHA-256 than when it was written: chunks were changed, moved or left out", start)
        if self._stream.read(1):
            raise self.fail("goes on after its end")

    def _read(self, size: int, what: str) -> bytes:
        """`size` bytes; a pipe may give them in parts."""
        parts, left = [], size
        while left:
            part = self._stream.read(left)
            if not part:
                raise self.fail(f"ends within {what}")
            parts.append(part)
            left -= len(part)
            self._sum.update(part)
            self.position += len(part)
        return b"".join(parts)

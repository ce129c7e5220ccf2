"""Files fetched from the places that the operator allows, within a number of bytes and of seconds.

Each hop of a redirection is checked as the first address was, and a connection goes to the very address that was looked at: a name that
means another machine a moment later changes nothing. No proxy, no cookie and no key of this machine is used, and nothing is unpacked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from urllib.parse import urljoin

import httpcore2

from trimodal.serving.limits import Limits
from trimodal.serving.media.addresses import check_url, may_connect, read_places
from trimodal.serving.refusals import RefusedError, refuse_bad, refuse_large
from trimodal.serving.requests import RemoteFile

_HOPS = 4
_AT_ONCE = 4
_MOVED = (301, 302, 303, 307, 308)
_HEADERS = [("Accept", "image/*, audio/*"), ("Accept-Encoding", "identity"), ("User-Agent", "trimodal")]


class _ForbiddenError(OSError):
    """A name leads where nothing may be fetched from."""


class _CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Connections to addresses that `may_connect` takes, and to no others."""

    def __init__(self) -> None:
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:  # fmt: skip
        """Look `host` up once, and connect to what was found."""
        looked = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = [str(address[0]) for *_, address in looked]
        if not may_connect(host, found):
            raise _ForbiddenError
        return await self._inner.connect_tcp(found[0], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """As the event loop does."""
        await asyncio.sleep(seconds)


class Fetcher:
    """Fetches for one service; nothing where no place is allowed.

    Raises:
        InputError: an allowed place is none.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self._places = limits, read_places(limits.media_hosts)
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, file: RemoteFile) -> bytes:
        """The bytes of `file`.

        Raises:
            RefusedError: 400, another place, no answer or another than a file; 413, too many bytes.
        """
        async with self._room:
            try:
                async with asyncio.timeout(self._limits.fetch_seconds):
                    return await self._follow(file)
            except TimeoutError:
                seconds = self._limits.fetch_seconds
                raise refuse_bad(
                    f"the file did not come within the {seconds:g} s that are given", file.field
                ) from None
            except (OSError, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, UnicodeError):
                raise _refuse(file) from None

    async def _follow(self, file: RemoteFile) -> bytes:
        url = file.url
        async with httpcore2.AsyncConnectionPool(network_backend=_CheckedBackend(), max_connections=1) as pool:
            for _ in range(_HOPS):
                check_url(url, self._places, file.field)
                async with pool.stream("GET", url, headers=_HEADERS) as answer:
                    told = {name.lower(): value.decode("latin-1") for name, value in answer.headers}
                    if answer.status not in _MOVED:
                        return await self._read(answer, told, file)
                    url = urljoin(url, told.get(b"location", ""))
        raise refuse_bad("the file's address leads on and on; give the one where the file is", file.field)

    async def _read(self, answer: httpcore2.Response, told: dict[bytes, str], file: RemoteFile) -> bytes:
        if answer.status != 200 or told.get(b"content-encoding", "identity") != "identity":
            raise _refuse(file)
        length, most, data = told.get(b"content-length", ""), self._limits.fetch_bytes, bytearray()
        if length.isdigit() and int(length) > most:
            raise _refuse_large(file, most)
        async for part in answer.aiter_stream():
            data += part
            if len(data) > most:
                raise _refuse_large(file, most)
        return bytes(data)


def _refuse(file: RemoteFile) -> RefusedError:
    """One text for all that goes wrong, which tells nothing of the network that this machine is in."""
    return refuse_bad("the file could not be fetched from its address; send it as a data: URI", file.field)


def _refuse_large(file: RemoteFile, most: int) -> RefusedError:
    return refuse_large(f"the file has more than {most:,} bytes", file.field)

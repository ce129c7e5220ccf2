"""Takes connections from the shared sockets, one at a time, so that a worker that is busy or has more of them leaves them to others, and
never more than it may hold.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from uvicorn.config import Config
from uvicorn.server import ServerState

from trimodal.serving.limits import Limits
from trimodal.serving.processes.events import EventLog
from trimodal.serving.processes.http_protocol import GuardedProtocol
from trimodal.serving.processes.shares import Shares

_PAUSE_SECONDS = 0.5
_LEFT_SECONDS = 0.002  # that a connection is left to a worker that has fewer


class Acceptor:
    """The connections of one worker.

    At the most that `limits.connections` allows, a new one takes the place of the one that has been idle for longest; where all are busy,
    new ones wait in the kernel for this or another worker. `shares` tells how many the others have, and them how many are here, in `slot`.
    """

    def __init__(
        self, listening: Sequence[socket.socket], config: Config, limits: Limits, log: EventLog, shares: Shares | None = None, slot: int = 0
    ) -> None:
        self.state = ServerState()
        self._listening, self._config, self._limits, self._log = listening, config, limits, log
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._shares, self._slot = shares or Shares(1), slot
        self._wanted = self._accepting = self._left = False
        self._resume: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        """Connections that are open."""
        return len(self.state.connections) + len(self._opening)

    def start(self) -> None:
        """Accept from now on."""
        self._wanted = True
        self._tell()
        self._listen()

    def stop(self) -> None:
        """Accept no more; what is open stays so."""
        self._wanted = False
        self._shares.tell(self._slot, None)
        if self._resume is not None:
            self._resume.cancel()
        self._pause()

    def close_idle(self) -> None:
        """End the connections in which no request is under way; others end with their answer."""
        for connection in list(self.state.connections):
            connection.shutdown()

    def abort_all(self) -> None:
        """End every connection at once."""
        for connection in list(self.state.connections):
            connection.transport.abort()

    def _listen(self) -> None:
        if self._wanted and not self._accepting:
            self._accepting = True
            for one in self._listening:
                self._loop.add_reader(one.fileno(), self._accept, one)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            for one in self._listening:
                self._loop.remove_reader(one.fileno())

    def _accept(self, listening: socket.socket) -> None:
        if self.count >= self._limits.connections and not self._make_room():
            self._pause()
            return
        if not self._left and self._shares.has_fewer(self._slot, self.count):
            self._left = True
            self._pause()
            self._resume = self._loop.call_later(_LEFT_SECONDS, self._listen)
            return
        self._left = False
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was faster, or the client has gone
        except OSError as error:  # no file descriptors or no memory: soon there may be some
            self._log.say("accept_failed", message=error.strerror)
            self._pause()
            self._resume = self._loop.call_later(_PAUSE_SECONDS, self._listen)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        self._tell()

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:
            connection.close()

    def _make_protocol(self) -> GuardedProtocol:
        return GuardedProtocol(self._config, self.state, self._limits, self._lose)

    def _lose(self) -> None:
        self._listen()
        self._tell()

    def _tell(self) -> None:
        if self._wanted:
            self._shares.tell(self._slot, self.count)

    def _make_room(self) -> bool:
        """End the connection that has been idle for longest; False where none is."""
        idle = [one for one in self.state.connections if isinstance(one, GuardedProtocol) and one.idle and not one.transport.is_closing()]
        if not idle:
            return False
        min(idle, key=lambda one: one.idle_since).transport.abort()
        return True

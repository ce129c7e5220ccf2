"""What a client is told when it does not get an answer: one table of reasons for all protocols.

    400 INVALID_ARGUMENT     malformed, or not what the model takes        411 413 415   length, size, media type
    401 403                  key missing or wrong                          422           never: other servers' validation
    404 NOT_FOUND            no such model, version or route               429 RESOURCE_EXHAUSTED  the queue is full, with a computed wait
    408 CANCELLED            the body did not come in time                 503 UNAVAILABLE  loading or draining
    504 DEADLINE_EXCEEDED    no answer in the time that was given          500 INTERNAL  a fault of ours, and only that

A message says what was found and what is expected; never a path of this machine, an address in memory, or what a decoder says.
"""

from __future__ import annotations

from http import HTTPStatus

from trimodal.errors import TrimodalError

MOST_CHARACTERS = 500
"""Of a message: what a client sent may be in it, and must not make it large."""

GRPC_CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 405: "UNIMPLEMENTED", 408: "CANCELLED",
    411: "INVALID_ARGUMENT", 413: "RESOURCE_EXHAUSTED", 415: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 431: "INVALID_ARGUMENT",
    499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
"""The gRPC status of each HTTP status."""


class RefusedError(TrimodalError):
    """A request that is not answered. `status` is HTTP's, `retry_after` the seconds after which to try again, `field` what was wrong."""

    def __init__(self, status: int, message: str, *, retry_after: float | None = None, field: str | None = None) -> None:
        super().__init__(message[:MOST_CHARACTERS])
        self.status, self.retry_after, self.field = HTTPStatus(status) if status != 499 else status, retry_after, field

    @property
    def grpc_code(self) -> str:
        """The name of gRPC's status."""
        return GRPC_CODES.get(int(self.status), "UNKNOWN")


def refuse_bad(message: str, field: str | None = None) -> RefusedError:
    """400: what was sent is not what is taken."""
    return RefusedError(400, message, field=field)


def refuse_unknown(message: str) -> RefusedError:
    """404: there is no such thing."""
    return RefusedError(404, message)


def refuse_large(message: str, field: str | None = None) -> RefusedError:
    """413: more than is taken."""
    return RefusedError(413, message, field=field)


def refuse_kind(message: str, field: str | None = None) -> RefusedError:
    """415: a kind of data that is not taken."""
    return RefusedError(415, message, field=field)


def refuse_late() -> RefusedError:
    """504: the time that the client, or the server, gave is over."""
    return RefusedError(504, "no answer in the time that was given; ask again later, or give a longer time")

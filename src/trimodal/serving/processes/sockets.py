"""The sockets that are listened at. The supervisor holds them for as long as it serves: a connection that waits outlives any worker."""

from __future__ import annotations

import errno
import socket

from trimodal.errors import InputError

BACKLOG = 1024
"""Connections that the kernel keeps until a worker takes them."""
_MOST_PORT = 65535


def bind_socket(host: str, port: int) -> socket.socket:
    """Take an address. Nothing is listened at before `begin_listening`: a balancer that reaches a server which is not ready must be refused
    at once, and try another, in place of waiting in a queue that nobody reads.

    Raises:
        InputError: the address is no address of this machine, or the port is taken or not ours to take.
    """
    return _bind(host, port, "--port", shared=False)


def begin_listening(bound: socket.socket) -> None:
    """Let connections come.

    Raises:
        InputError: another program has begun to listen there meanwhile.
    """
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise InputError(_describe_refusal(host, port, "--port", error)) from error


def reserve_port(host: str, port: int) -> socket.socket:
    """Take a port that every worker binds itself, as gRPC wants it, so that nobody else can. Nothing is listened at.

    Raises:
        InputError: as `bind_socket`.
    """
    return _bind(host, port, "--grpc-port", shared=True)


def find_port(bound: socket.socket) -> int:
    """The number of its port."""
    return int(bound.getsockname()[1])


def write_url(host: str, port: int) -> str:
    """What a client on this machine is told."""
    seen = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{seen}]:{port}" if ":" in seen else f"http://{seen}:{port}"


def _bind(host: str, port: int, option: str, *, shared: bool) -> socket.socket:
    if not 0 <= port <= _MOST_PORT:
        raise InputError(f"{option} is {port}; give a port from 0 (any that is free) to {_MOST_PORT}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise InputError(f"--host {host!r} is no address that is known here; give one such as 127.0.0.1 or 0.0.0.0") from error
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise InputError(_describe_refusal(host, port, option, error)) from error
    bound.setblocking(False)
    return bound


def _describe_refusal(host: str, port: int, option: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken by another program; give a free one with {option} (0 for any)"
    if error.errno == errno.EACCES:
        return f"port {port} needs rights that this user does not have; give one from 1024 up with {option}"
    return f"{host} port {port} cannot be listened at ({error.strerror}); give an address of this machine with --host"

"""The gRPC server of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc
from grpc import aio

from trimodal.errors import InputError
from trimodal.serving.grpc.servicer import Servicer
from trimodal.serving.service import Service


async def start_grpc_server(
    service: Service, host: str, port: int, keys: Sequence[str] = (), count: Callable[[str], None] | None = None
) -> aio.Server:
    """A server that listens at `port`, where servers of other processes may listen too; `stop` it with the seconds that calls under way
    have.

    Raises:
        InputError: the port cannot be had.
    """
    server = make_grpc_server(service, keys, count, share_port=True)
    try:
        server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        raise InputError(f"gRPC cannot listen at {host}, port {port}; choose another --grpc-port") from error
    await server.start()
    return server


def make_grpc_server(
    service: Service, keys: Sequence[str] = (), count: Callable[[str], None] | None = None, *, share_port: bool = False
) -> aio.Server:
    """A server for `service` without a port. It neither starts nor stops the service, and lives in its event loop.

    Args:
        keys, count: as `Servicer` says.
        share_port: whether several processes listen on one port.
    """
    limits = service.limits
    server = aio.server(
        options=[
            ("grpc.max_receive_message_length", limits.body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", limits.header_bytes),
            ("grpc.max_concurrent_streams", 128),
            ("grpc.so_reuseport", int(share_port)),
        ],
        maximum_concurrent_rpcs=limits.connections,
        compression=grpc.Compression.NoCompression,
    )
    server.add_generic_rpc_handlers(tuple(Servicer(service, keys, count).list_handlers()))
    return server

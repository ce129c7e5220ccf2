"""The gRPC server of one process."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc import aio

from trimodal.serving.grpc.servicer import Servicer
from trimodal.serving.service import Service


def make_grpc_server(service: Service, keys: Sequence[str] = (), *, share_port: bool = False) -> aio.Server:
    """A server for `service` without a port; `add_insecure_port`, `start` and `stop` it in the service's event loop. It neither starts
    nor stops the service.

    Args:
        keys: as `Servicer` says.
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
    server.add_generic_rpc_handlers(tuple(Servicer(service, keys).list_handlers()))
    return server

"""The methods of the protocol. A refusal becomes gRPC's status, a fault of ours INTERNAL without a word of it."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from trimodal.serving.grpc.messages import DATA_TYPES, HEALTH, HEALTH_MESSAGES, MESSAGES, SERVICE
from trimodal.serving.grpc.tensors import read_message, write_message
from trimodal.serving.keys import Keys
from trimodal.serving.open_inference import reports
from trimodal.serving.open_inference.calls import call_service
from trimodal.serving.open_inference.directory import Entry, find_entry
from trimodal.serving.open_inference.requests import MOST_ID
from trimodal.serving.refusals import RefusedError, refuse_bad
from trimodal.serving.service import Service

logger = logging.getLogger("trimodal.serving")

Method = Callable[[Any, Any], Awaitable[Any]]

_FAULT = "the server made a fault; it is written in its log"
_KIND_CPU = 2
MALFORMED = object()
_SERVING, _NOT_SERVING = 1, 2


class Servicer:
    """All methods, for one service.

    `keys` are those of which a client must send one, in the metadata `authorization` as `Bearer KEY`; health needs none. `count` is
    told the model after each call.
    """

    def __init__(self, service: Service, keys: Sequence[str] = (), count: Callable[[str], None] | None = None) -> None:
        self.service, self.count = service, count
        self.keys = Keys(keys)

    def list_handlers(self) -> list[grpc.GenericRpcHandler]:
        """What a gRPC server is given: the protocol's methods, and gRPC's own health check."""
        ours = {name: self._handle(name, method) for name, method in self._list_methods().items()}
        ours["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._infer_all, make_parser(MESSAGES["ModelInferRequest"]), _serialize
        )
        parse_health = make_parser(HEALTH_MESSAGES["HealthCheckRequest"])
        health = grpc.unary_unary_rpc_method_handler(self._check_health, parse_health, _serialize)
        return [grpc.method_handlers_generic_handler(SERVICE, ours), grpc.method_handlers_generic_handler(HEALTH, {"Check": health})]

    def _list_methods(self) -> dict[str, Method]:
        return {
            "ServerLive": self._tell_live,
            "ServerReady": self._tell_ready,
            "ModelReady": self._tell_model_ready,
            "ServerMetadata": self._tell_server,
            "ModelMetadata": self._tell_metadata,
            "ModelInfer": self._infer,
            "ModelConfig": self._tell_config,
            "ModelStatistics": self._tell_statistics,
            "RepositoryIndex": self._tell_index,
            "RepositoryModelLoad": self._refuse_control,
            "RepositoryModelUnload": self._refuse_control,
        }

    def _handle(self, name: str, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(request: Any, context: Any) -> Any:
            try:
                if name not in ("ServerLive", "ServerReady"):
                    self._check_key(context)
                return await method(check_parsed(request), context)
            except RefusedError as refused:
                await _abort(context, refused)
            except Exception as error:
                logger.error("fault while answering a call", exc_info=error)
                await context.abort(grpc.StatusCode.INTERNAL, _FAULT)

        return grpc.unary_unary_rpc_method_handler(handle, make_parser(MESSAGES[f"{name}Request"]), _serialize)

    def _check_key(self, context: Any) -> None:
        self.keys.check(str(dict(context.invocation_metadata() or ()).get("authorization", "")))

    async def _infer(self, request: Any, context: Any) -> Any:
        remaining = context.time_remaining()
        seconds = remaining if remaining is not None and remaining < 1e9 else None
        entry = self._find(request.model_name, request.model_version)
        asked = read_message(entry, request, self.service.limits, seconds)
        try:
            return write_message(await call_service(self.service, asked))
        finally:
            if self.count is not None:
                self.count(entry.card.name)

    async def _infer_all(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """One answer per request, in their order; what is refused, or goes wrong, is told in its place, and the stream goes on."""
        try:
            self._check_key(context)
        except RefusedError as refused:
            await _abort(context, refused)
        async for request in requests:
            try:
                yield MESSAGES["ModelStreamInferResponse"](infer_response=await self._infer(check_parsed(request), context))
            except RefusedError as refused:
                yield _tell_error(str(refused), request)
            except Exception as error:
                logger.error("fault while answering in a stream", exc_info=error)
                yield _tell_error(_FAULT, request)

    async def _tell_live(self, request: Any, context: Any) -> Any:
        return MESSAGES["ServerLiveResponse"](live=True)

    async def _tell_ready(self, request: Any, context: Any) -> Any:
        return MESSAGES["ServerReadyResponse"](ready=self.service.ready)

    async def _tell_model_ready(self, request: Any, context: Any) -> Any:
        try:
            self._find(request.name, request.version)
        except RefusedError:
            return MESSAGES["ModelReadyResponse"](ready=False)
        return MESSAGES["ModelReadyResponse"](ready=self.service.ready)

    async def _tell_server(self, request: Any, context: Any) -> Any:
        return MESSAGES["ServerMetadataResponse"](**reports.tell_server())

    async def _tell_metadata(self, request: Any, context: Any) -> Any:
        return MESSAGES["ModelMetadataResponse"](**reports.tell_metadata(self._find(request.name, request.version)))

    async def _tell_config(self, request: Any, context: Any) -> Any:
        told = reports.tell_config(self._find(request.name, request.version), self.service.limits.batch)
        for tensor in (*told["input"], *told["output"]):
            tensor["data_type"] = DATA_TYPES.index(tensor["data_type"].removeprefix("TYPE_"))
        for group in told["instance_group"]:
            group["kind"] = _KIND_CPU
        return MESSAGES["ModelConfigResponse"](config=told)

    async def _tell_statistics(self, request: Any, context: Any) -> Any:
        if request.name:
            told = [reports.tell_statistics(self.service, self._find(request.name, request.version))]
        else:
            told = reports.tell_all_statistics(self.service)
        for one in told:
            del one["batch_stats"]
        return MESSAGES["ModelStatisticsResponse"](model_stats=told)

    async def _tell_index(self, request: Any, context: Any) -> Any:
        index = [told for told in reports.tell_index(self.service) if told["state"] == "READY" or not request.ready]
        return MESSAGES["RepositoryIndexResponse"](models=index)

    async def _refuse_control(self, request: Any, context: Any) -> Any:
        raise RefusedError(403, "models are loaded and unloaded by the operator, not by clients")

    async def _check_health(self, request: Any, context: Any) -> Any:
        if request is MALFORMED or request.service not in ("", SERVICE):
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return HEALTH_MESSAGES["HealthCheckResponse"](status=_SERVING if self.service.ready else _NOT_SERVING)

    def _find(self, name: str, version: str) -> Entry:
        return find_entry(self.service, name, version)


def make_parser(kind: Any) -> Callable[[bytes], Any]:
    """What reads a message of the `kind`, or gives `MALFORMED`: what gRPC itself makes of an exception has Python's words in it."""

    def parse(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except (DecodeError, RecursionError, ValueError):
            return MALFORMED

    return parse


def check_parsed(request: Any) -> Any:
    """The message.

    Raises:
        RefusedError: 400, it could not be read.
    """
    if request is MALFORMED:
        raise refuse_bad("the message cannot be read as one of this protocol")
    return request


async def _abort(context: Any, refused: RefusedError) -> None:
    if refused.retry_after is not None:
        context.set_trailing_metadata((("retry-after", str(max(1, math.ceil(refused.retry_after)))),))
    await context.abort(getattr(grpc.StatusCode, refused.grpc_code), str(refused))


def _tell_error(message: str, request: Any) -> Any:
    about = MESSAGES["ModelInferResponse"](id="" if request is MALFORMED else request.id[:MOST_ID])
    return MESSAGES["ModelStreamInferResponse"](error_message=message, infer_response=about)


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data

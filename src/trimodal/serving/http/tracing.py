"""Traces by OpenTelemetry: a span per request, below that of the client where it sends `traceparent`. Nothing is done, and nothing
costs, where `opentelemetry-api` is not installed.

Spans go where `OTEL_EXPORTER_OTLP_ENDPOINT` says, once `start_tracing` has been called, or to whatever provider a program has set up
itself.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from trimodal.errors import InputError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
INSTALLED = importlib.util.find_spec("opentelemetry") is not None

if INSTALLED:
    from opentelemetry import propagate, trace


class Span:
    """What is told of a request while it runs."""

    def __init__(self, span: Any) -> None:
        self.span = span

    def note(self, status: int, model: str) -> None:
        """The request is over, with this status, of this model."""
        if self.span is None:
            return
        self.span.set_attribute("http.response.status_code", status)
        if model:
            self.span.set_attribute("trimodal.model", model)
        if status >= 500:
            self.span.set_status(trace.StatusCode.ERROR)


@contextmanager
def open_span(route: str, scope: Scope) -> Iterator[Span]:
    """A span for one request, called by its method and its route's pattern."""
    if not INSTALLED or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # nobody takes spans
        yield Span(None)
        return
    context = propagate.extract(Headers(scope=scope))
    told = {"http.request.method": scope["method"], "http.route": route, "url.scheme": scope.get("scheme", "http")}
    tracer = trace.get_tracer("trimodal.serving")
    with tracer.start_as_current_span(f"{scope['method']} {route}", context, trace.SpanKind.SERVER, told) as span:
        yield Span(span)


def start_tracing(service: str = "trimodal") -> None:
    """Send spans to the collector that `OTEL_EXPORTER_OTLP_ENDPOINT` names; nothing where it is not set. Call it after a fork, not before.

    Raises:
        InputError: it is set, and the packages are not installed.
    """
    if not os.environ.get(ENDPOINT):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InputError(f"{ENDPOINT} is set, and {error.name} is not installed; pip install 'trimodal[trace]'") from error
    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)

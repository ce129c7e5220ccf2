"""A span per request, below the client's, with the route's pattern and the status."""

from __future__ import annotations

import httpx
import pytest
from fake_service import FakeService
from loopback import Served
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from trimodal.errors import InputError
from trimodal.serving.http import tracing
from trimodal.serving.http.app import make_app


def test_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    served = Served(make_app(FakeService()))
    parent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    try:
        httpx.post(f"{served.url}/v1/embeddings", json={"model": "adder", "input": "a"}, headers=parent)
        httpx.get(f"{served.url}/v2/models/stranger")
    finally:
        served.close()
    one, other = exporter.get_finished_spans()
    assert one.name == "POST /v1/embeddings" and one.attributes is not None and other.attributes is not None
    assert one.attributes["http.response.status_code"] == 200 and one.attributes["trimodal.model"] == "adder"
    assert one.parent is not None and one.parent.span_id == 0xB7AD6B7169203331
    assert one.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert other.name == "GET /v2/models/{name}" and other.attributes["http.response.status_code"] == 404
    assert "stranger" not in str(other.attributes)


def test_a_wish_that_cannot_be_met_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tracing.ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InputError, match=r"trimodal\[trace\]"):
        tracing.start_tracing()
    monkeypatch.delenv(tracing.ENDPOINT)
    tracing.start_tracing()

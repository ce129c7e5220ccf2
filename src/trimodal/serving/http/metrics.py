"""Metrics for Prometheus. No label takes what a client sent: routes are patterns (none for what
is refused before a route is found), models are those that are served.

    trimodal_requests_total{route, model, status}     trimodal_request_seconds{route}
    trimodal_model_total{model, what}                 what: requests, items, failed, refused
    trimodal_model_seconds_total{model, phase}        phase: queue, encode, compute
    trimodal_queued_items{model}

Several processes are added up where `PROMETHEUS_MULTIPROC_DIR` is set before they start, as prometheus_client says.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from trimodal.serving.refusals import RefusedError
from trimodal.serving.service import Service

logger = logging.getLogger("trimodal.serving")

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CONTENT_TYPE = CONTENT_TYPE_LATEST

_COUNTED, _PHASES = ("requests", "items", "failed", "refused"), ("queue", "encode", "compute")


class Metrics:
    """All metrics of one app."""

    def __init__(self, service: Service) -> None:
        self.service, self.registry = service, CollectorRegistry()
        self.requests = Counter("trimodal_requests", "Requests answered or refused.", ("route", "model", "status"), registry=self.registry)
        self.seconds = Histogram(
            "trimodal_request_seconds",
            "Seconds from the headers to the end of the answer.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.counted = Counter(
            "trimodal_model", "What the model was asked, over all protocols.", ("model", "what"), registry=self.registry
        )
        self.phases = Counter("trimodal_model_seconds", "Seconds that items spent.", ("model", "phase"), registry=self.registry)
        self.queued = Gauge("trimodal_queued_items", "Items that wait.", ("model",), registry=self.registry, multiprocess_mode="livesum")
        self.last: dict[tuple[str, str], float] = {}
        self.lost = False

    def note(self, route: str, model: str, status: int, seconds: float) -> None:
        """One request is over. Counters that cannot be written are told of in the log, once: an answer is worth more than its count."""
        try:
            self.requests.labels(route, model, str(status)).inc()
            self.seconds.labels(route).observe(seconds)
            if model:
                self.take_counts(model)
        except OSError as failed:
            if not self.lost:
                logger.warning("requests are no longer counted, as the counters' folder cannot be written: %s", failed)
            self.lost = True

    def write(self) -> bytes:
        """All metrics in Prometheus' text format.

        Raises:
            RefusedError: 503, the folder of the counters is gone.
        """
        shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if shared is not None and not Path(shared).is_dir():  # taken away by whoever cleans up, such as the end of a login
            raise RefusedError(503, "the counters are gone from the disk; they come back when the server is started again")
        self.take_counts()
        registry = self.registry
        if shared is not None:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def take_counts(self, model: str = "") -> None:
        """Add what the service has counted since the last time, of `model` or of all: other processes tell it for this one."""
        for name in [model] if model else [card.name for card in self.service.list_models()]:
            counted = self.service.count(name)
            for what in _COUNTED:
                self.counted.labels(name, what).inc(self._since(name, what, counted.get(what, 0.0)))
            for phase in _PHASES:
                self.phases.labels(name, phase).inc(self._since(name, phase, counted.get(phase, 0.0)))
            self.queued.labels(name).set(counted.get("queued", 0.0))

    def _since(self, model: str, what: str, now: float) -> float:
        before, self.last[model, what] = self.last.get((model, what), 0.0), now
        return max(0.0, now - before)

"""What Ray Serve is told of a deployment, as plain data: its own defaults would queue without bound, or cap a replica below one batch."""

from __future__ import annotations

from typing import Any

from trimodal.serving.limits import Limits

DEPLOYMENT = "trimodal"
ENDING = "ending"
KEEP_ALIVE_SECONDS = 5
_RETRY_SECONDS = 1
_MOST_PER_LEAST = 4
_SPARE_SECONDS = 5.0


def describe_http(host: str, port: int, limits: Limits) -> dict[str, Any]:
    """Ray's HTTP proxy: it gives up a little after the application would have."""
    seconds = limits.request_seconds + _SPARE_SECONDS
    return {"host": host, "port": port, "request_timeout_s": seconds, "keep_alive_timeout_s": KEEP_ALIVE_SECONDS}


def describe_logging() -> dict[str, Any]:
    """What Ray Serve writes down: by default a line per request, in the proxy and in the replica."""
    return {"enable_access_log": False, "log_level": "WARNING"}


def describe_deployment(replicas: int, threads: int, limits: Limits, *, autoscale: bool = False) -> dict[str, Any]:
    """How many replicas, and how much each of them takes.

    A replica takes as many requests as fill a batch and its own queue: it refuses more itself, with 429 and the seconds to wait (Ray's
    default is 5 at once, less than a batch). What each proxy holds back is bounded as well (by default it is not): by as many requests as
    a worker has connections, since a proxy that refuses a burst does so while replicas have room, and in words that no protocol knows.
    """
    scale: dict[str, Any] = {"num_replicas": replicas}
    if autoscale:
        bounds = {"min_replicas": replicas, "max_replicas": replicas * _MOST_PER_LEAST}
        scale = {"autoscaling_config": {**bounds, "target_ongoing_requests": limits.batch}}
    return {
        **scale,
        "max_ongoing_requests": limits.batch + limits.queue,
        "max_queued_requests": limits.connections,
        "backpressure_config": {"status_code": 429, "retry_after_s": _RETRY_SECONDS},
        "graceful_shutdown_timeout_s": limits.drain_seconds,
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 10.0,
        "ray_actor_options": {"num_cpus": float(threads)},
    }

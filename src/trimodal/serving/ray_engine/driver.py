"""The program that `trimodal serve --engine ray` starts in Ray's environment: a cluster of this machine, and one deployment."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import serve

from trimodal.serving.processes.events import EventLog
from trimodal.serving.processes.settings import ServeSettings, read_settings
from trimodal.serving.processes.sockets import write_url
from trimodal.serving.processes.watching import resolve_folders
from trimodal.serving.ray_engine.deployment import build_deployment
from trimodal.serving.ray_engine.options import describe_http

_SOURCE = Path(__file__).resolve().parents[3]
_STORE_BYTES = 128 << 20
_APPLICATION, _LOOPBACK = "trimodal", "127.0.0.1"


def main(arguments: Sequence[str]) -> None:
    """Serve what the settings in the first argument say. SIGHUP brings a new version into service, SIGTERM and SIGINT end it."""
    settings, log, begun = read_settings(arguments[0]), EventLog(json.loads(arguments[0])["json_log"]), time.monotonic()
    begin_cluster(settings)
    serve.start(proxy_location="HeadOnly", http_options=describe_http(settings.host, settings.port, settings.limits))
    deploy(settings, 1)
    seconds = round(time.monotonic() - begun, 2)
    url = write_url(settings.host, settings.port)
    log.say("serving", engine="ray", url=url, replicas=settings.workers, threads=settings.threads, seconds=seconds)
    version = 1
    while (number := signal.sigwait({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})) == signal.SIGHUP:
        version += 1
        log.say("reload", why="SIGHUP", version=version)
        try:
            deploy(settings, version)
            log.say("reloaded", version=version)
        except RuntimeError as error:
            log.say("reload_refused", version=version, why=str(error).strip().splitlines()[-1])
    log.say("draining", signal=signal.Signals(number).name, seconds=settings.limits.drain_seconds)
    serve.shutdown()
    ray.shutdown()
    log.say("ended")
    sys.stdout.flush()
    os._exit(0)


def deploy(settings: ServeSettings, version: int) -> None:
    """Let replicas of this version take over from those of the last one, a fifth of them at a time, and wait until they have.

    Raises:
        RuntimeError: they do not start.
    """
    told = {**asdict(settings), "folders": resolve_folders(settings.folders), "extra": {**settings.extra, "version": version}}
    serve.run(build_deployment(told), name=_APPLICATION, route_prefix="/")


def begin_cluster(settings: ServeSettings, **options: Any) -> None:
    """A cluster of this machine that ends with this process, and tells Ray's makers nothing."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_SERVE_LOG_TO_STDERR="0")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    path = os.pathsep.join([str(_SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(
        _node_ip_address=_LOOPBACK, num_cpus=max(settings.workers * settings.threads, 1) + 1, include_dashboard=False,
        object_store_memory=_STORE_BYTES,
        runtime_env={"env_vars": {"PYTHONPATH": path, "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}},
        log_to_driver=False, logging_level="ERROR", **options,
    )  # fmt: skip

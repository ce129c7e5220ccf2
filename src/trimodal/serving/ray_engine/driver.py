"""The program that `trimodal serve --engine ray` starts in Ray's environment: a cluster of this machine, and one deployment."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
from ray import serve

from trimodal.serving.processes.events import EventLog
from trimodal.serving.processes.settings import ServeSettings, read_settings
from trimodal.serving.processes.sockets import write_url
from trimodal.serving.processes.watching import read_marks, resolve_folders
from trimodal.serving.ray_engine.deployment import build_deployment
from trimodal.serving.ray_engine.options import ENDING, describe_http, describe_logging
from trimodal.serving.ray_engine.trial import Failure, begin_trial, end_trial
from trimodal.serving.ray_engine.urgency import raise_descendants

_SOURCE = Path(__file__).resolve().parents[3]
_STORE_BYTES = 128 << 20
_APPLICATION, _LOOPBACK = "trimodal", "127.0.0.1"
_LOOK_SECONDS, _FLUSH_SECONDS = 0.1, 0.5
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def main(arguments: Sequence[str]) -> None:
    """Serve what the settings in the first argument say. SIGHUP brings a new version into service, SIGTERM and SIGINT end it."""
    settings, begun = read_settings(arguments[0]), time.monotonic()
    log = EventLog(settings.json_log)
    begin_cluster(settings)
    cluster = Cluster(settings, log)
    cluster.start()
    seconds = round(time.monotonic() - begun, 2)
    url = write_url(settings.host, settings.port)
    log.say("serving", engine="ray", url=url, replicas=settings.workers, threads=settings.threads, seconds=seconds)
    while (number := wait_for_signal(settings, cluster)) == signal.SIGHUP:
        cluster.reload("SIGHUP")
    log.say("draining", signal=signal.Signals(number).name, seconds=settings.limits.drain_seconds)
    drain(settings, log)
    sys.stdout = sys.stderr = io.StringIO()  # Ray complains of processes that it has ended itself
    serve.shutdown()
    ray.shutdown()
    log.say("ended")
    os._exit(0)


class Cluster:
    """The deployment of this machine's cluster: the version that serves, and the one that shall.

    Attributes:
        tried: what the folders looked like when a version was last tried, whatever came of it.
    """

    def __init__(self, settings: ServeSettings, log: EventLog) -> None:
        self._settings, self._log = settings, log
        self._serving, self._version = settings, 0
        self.tried = read_marks(settings.folders)

    def start(self) -> None:
        """Serve the first version; where that cannot be, say why and end with this process."""
        told = self._tell_next()
        trial = begin_trial(told)
        serve.start(
            proxy_location="HeadOnly", http_options=describe_http(told.host, told.port, told.limits), logging_config=describe_logging()
        )  # fmt: skip
        if (failed := end_trial(trial) or deploy(told)) is not None:
            message, code = failed
            print(f"error: {message}", file=sys.stderr, flush=True)
            os._exit(code)
        self._serving = told
        raise_descendants(os.getpid())  # the proxy

    def reload(self, why: str) -> None:
        """Bring in what the folders hold now. It is tried apart from the replicas before any of them ends; where it then fails in them all
        the same, they are brought back to the version that served."""
        told = self._tell_next()
        self._log.say("reload", why=why, version=self._version)
        if (failed := end_trial(begin_trial(told))) is not None:
            self._log.say("reload_refused", version=self._version, why=failed[0])
        elif (failed := deploy(told)) is not None:
            self._log.say("reload_incomplete", version=self._version, why=failed[0])
            deploy(self._serving)
        else:
            self._serving = told
            self._log.say("reloaded", version=self._version)

    def _tell_next(self) -> ServeSettings:
        self._version += 1
        self.tried = read_marks(self._settings.folders)
        told = self._settings.with_folders(resolve_folders(self._settings.folders))
        return replace(told, extra={**told.extra, "version": self._version})


def wait_for_signal(settings: ServeSettings, cluster: Cluster) -> int:
    """The next signal. Meanwhile the folders are looked at, and reloaded where they have changed and have come to rest."""
    seen = cluster.tried
    while settings.watch_seconds:
        if (found := signal.sigtimedwait(_SIGNALS, settings.watch_seconds)) is not None:
            return found.si_signo
        marks = read_marks(settings.folders)
        if marks != cluster.tried and marks == seen:
            cluster.reload("a folder has changed")
        seen = marks
    return signal.sigwait(_SIGNALS)


def deploy(settings: ServeSettings) -> Failure | None:
    """Let replicas of this version take over from those of the last one, a fifth of them at a time, and wait until they have. What is
    wrong and the exit code for it where they do not start, or None."""
    try:
        serve.run(build_deployment(asdict(settings)), name=_APPLICATION, route_prefix="/")
    except RuntimeError as error:
        return str(error).strip().splitlines()[-1], 1
    return None


def drain(settings: ServeSettings, log: EventLog) -> None:
    """Tell the replicas that the end has come, and wait until they have answered what is under way."""
    begun, place = time.monotonic(), Path(settings.extra[ENDING])
    (place / ENDING).touch()
    while (missing := settings.workers - (len(list(place.iterdir())) - 1)) > 0:
        if time.monotonic() - begun >= settings.limits.drain_seconds:
            log.say("cut_off", replicas=missing)
            break
        time.sleep(_LOOK_SECONDS)
    time.sleep(max(settings.notice_seconds - (time.monotonic() - begun), _FLUSH_SECONDS))


def begin_cluster(settings: ServeSettings, **options: Any) -> None:
    """A cluster of this machine that ends with this process, and tells Ray's makers nothing."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_SERVE_LOG_TO_STDERR="0")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    path = os.pathsep.join([str(_SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(
        _node_ip_address=_LOOPBACK, num_cpus=max(settings.workers * settings.threads, 1) + 1, include_dashboard=False,
        object_store_memory=_STORE_BYTES,
        runtime_env={"env_vars": {"PYTHONPATH": path, "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}},
        log_to_driver=False, logging_level="ERROR", **options,
    )  # fmt: skip

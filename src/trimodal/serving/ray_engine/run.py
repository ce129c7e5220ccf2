"""From `trimodal serve --engine ray` to the program in Ray's environment, which takes this process's place."""

from __future__ import annotations

import os

from trimodal.errors import InputError
from trimodal.runtimes.environment import Environment, make_command
from trimodal.serving.processes.settings import ServeSettings

RAY = Environment("ray", ("ray", "ray.serve", "torch", "starlette"))


def run_on_ray(settings: ServeSettings) -> int:
    """Serve on Ray until told to end. Does not return where all is well.

    Raises:
        InputError: Ray is not installed, or something is asked for that it does not do.
    """
    if settings.grpc_port is not None:
        raise InputError("--grpc-port is not served on Ray: it does not take other programs' services on a port of their own; use --engine local")
    if settings.port == 0:
        raise InputError("--port 0 is not served on Ray; give a port")
    command = make_command(RAY.find_python(), "serving.ray_engine.driver:main", settings.to_json())
    os.execv(command[0], command)

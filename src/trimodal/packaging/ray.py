"""What Ray Serve needs to run the same application on its replicas: a configuration, and the module that it imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimodal.packaging.bundle import PORT, Bundle, copy_files
from trimodal.packaging.writing import write_files, write_yaml
from trimodal.serving.ray_engine.options import DEPLOYMENT, describe_deployment, describe_http

_MODULE = '''"""Written by trimodal package: what `serve deploy serve_config.yaml` imports. Its arguments are those of the configuration."""

from trimodal.serving.ray_engine.deployment import build_deployment as build  # noqa: F401
'''


def write_ray(bundle: Bundle, out: Path) -> list[str]:
    """serve_config.yaml, serve_module.py and `models/`; paths below `out`."""
    config = describe_serve(bundle, f"models/{bundle.name}", f"{DEPLOYMENT}-{bundle.name}", "serve_module:build")
    written = write_files(out, {"serve_config.yaml": _HEAD + write_yaml(config), "serve_module.py": _MODULE})
    return [*written, *(f"models/{bundle.name}/{name}" for name in copy_files(bundle.folder, out / "models" / bundle.name))]


_HEAD = "# Written by trimodal package. In this folder, with trimodal and ray[serve] installed: serve run serve_config.yaml\n"


def describe_serve(bundle: Bundle, folder: str, application: str, target: str) -> dict[str, Any]:
    """Ray Serve's configuration as plain data, its defaults replaced where they would queue without bound or answer for ever."""
    limits = bundle.limits
    return {
        "proxy_location": "EveryNode",
        "http_options": describe_http("127.0.0.1", PORT, limits),
        "applications": [{
            "name": application,
            "route_prefix": "/",
            "import_path": target,
            "args": {"folders": [folder], "names": [bundle.name], "threads": bundle.threads},
            "deployments": [{"name": DEPLOYMENT, **describe_deployment(bundle.replicas, bundle.threads, limits, autoscale=True)}],
        }],
    }  # fmt: skip

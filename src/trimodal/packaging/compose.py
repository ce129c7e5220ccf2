"""Several servers behind nginx on one machine, for `docker compose`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimodal.packaging.bundle import PORT, Bundle
from trimodal.packaging.docker import USER, write_docker
from trimodal.packaging.writing import render, write_files, write_yaml
from trimodal.serving.limits import MiB

NGINX = "nginx:1.28-alpine"
_PUBLIC = 8080
_SPARE_SECONDS = 15


def write_compose(bundle: Bundle, out: Path) -> list[str]:
    """compose.yaml, nginx.conf, update.sh, and the folder `server/` that the image is built of; paths below `out`."""
    names = list_servers(bundle)
    written = write_files(out, {
        "compose.yaml": "# Written by trimodal package. Run: docker compose up --build --wait\n" + write_yaml(describe_services(bundle)),
        "nginx.conf": write_nginx(bundle, [f"{name}:{PORT}" for name in names]),
        "update.sh": render("update.sh.j2", servers=names),
    })  # fmt: skip
    return [*written, *(f"server/{name}" for name in write_docker(bundle, out / "server"))]


def list_servers(bundle: Bundle) -> list[str]:
    """The servers' names, by which nginx finds them."""
    return [f"server-{number}" for number in range(1, bundle.replicas + 1)]


def write_nginx(
    bundle: Bundle, servers: list[str], *, listen: str = str(_PUBLIC), user: str = "nginx", folder: str = "/tmp",
    errors: str = "/dev/stderr",
) -> str:  # fmt: skip
    """The configuration of nginx before `servers` (host:port).

    Args:
        listen: port, or address and port.
        user: that its workers run as; empty where the master is not root.
        folder: that it may write to.
    """
    limits = bundle.limits
    return render(
        "nginx.conf.j2", servers=servers, listen=listen, user=user, folder=folder, errors=errors,
        body_megabytes=-(-limits.body_bytes // MiB), header_kilobytes=max(1, limits.header_bytes // 4 // 1024),
        header_seconds=round(limits.header_seconds),
        body_seconds=round(limits.body_seconds), answer_seconds=round(limits.request_seconds) + 5,
    )  # fmt: skip


def describe_services(bundle: Bundle) -> dict[str, Any]:
    """The compose file as plain data."""
    names = list_servers(bundle)
    return {
        "name": bundle.name,
        "services": {
            **{name: _describe_server(bundle) for name in names},
            "proxy": {
                "image": NGINX,
                "ports": [f"127.0.0.1:{_PUBLIC}:{_PUBLIC}"],
                "volumes": [{"type": "bind", "source": "./nginx.conf", "target": "/etc/nginx/nginx.conf", "read_only": True}],
                "depends_on": {name: {"condition": "service_healthy"} for name in names},
                "read_only": True,
                "tmpfs": ["/tmp", "/var/cache/nginx", "/run"],
                "restart": "unless-stopped",
                "stop_grace_period": f"{round(bundle.limits.drain_seconds) + _SPARE_SECONDS}s",
                "stop_signal": "SIGQUIT",
            },
        },
    }


def _describe_server(bundle: Bundle) -> dict[str, Any]:
    return {
        "image": bundle.image,
        "build": {"context": "./server", "args": {"TORCH_INDEX": "${TORCH_INDEX:-}"}},
        "user": f"{USER}:{USER}",
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "init": False,
        "cpus": float(bundle.cores),
        "mem_limit": f"{find_memory(bundle)}m",
        "pids_limit": 512,
        "restart": "unless-stopped",
        "stop_grace_period": f"{round(bundle.limits.drain_seconds) + _SPARE_SECONDS}s",
    }


def find_memory(bundle: Bundle) -> int:
    """MiB that one server may take: what it imports, each worker's copy of the model twice over (a new version beside the old one), and
    what files may decode to."""
    imported, per_worker = 1024, 512 + 4 * -(-bundle.bytes // MiB)
    return imported + 2 * bundle.workers * per_worker + bundle.limits.decode_bytes // MiB
